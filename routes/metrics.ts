import { Elysia } from "elysia";
import { AggregatorRegistry, collectDefaultMetrics, Gauge, Histogram, Registry } from "prom-client";
import { ORDERS_TOTAL, SQS_REQUESTS_TOTAL } from "../metric-names.ts";
import type { Depth } from "../queue/queue.ts";
import type { DataLoss } from "../store/data-loss.ts";
import type { Store } from "../store/store.ts";
import type { WorkerStatus } from "../worker-status.ts";
import { operation, Text } from "./openapi.ts";

export interface MetricsDeps {
  /** Metrics of the main thread: process, HTTP and gauges. */
  registry: Registry;
  store: Pick<Store, "markerWindowSeconds">;
  dataLoss: DataLoss;
  depth: () => Promise<Depth>;
  workers: () => WorkerStatus[];
  /** Seconds until the queue is empty at the current rate; Infinity if the rate is zero, undefined while unknown. */
  drainSeconds: () => Promise<number | undefined>;
  /** The counters of each thread as JSON of prom-client. They are summed. */
  threadMetrics: () => Promise<object[][]>;
}

const STATES = ["running", "paused", "restarting"] as const;
/** Price of a standard queue in us-east-1 after the first million requests a month: https://aws.amazon.com/sqs/pricing/ */
const DOLLARS_PER_MILLION_REQUESTS = 0.4;
const HTTP_BUCKETS = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5];

/** Default metrics that have wrong values on Bun: a maximum below the minimum, "Nan", or always zero. */
const WRONG_ON_BUN = /^(nodejs_eventloop_lag_.*|nodejs_active_.*|process_heap_bytes)$/;

/** @returns the route of the metrics: those of the main thread, and the sums of all threads */
export function metricsRoutes(deps: MetricsDeps) {
  const { registry } = deps;
  collectDefaultMetrics({ register: registry });
  for (const { name } of registry.getMetricsAsArray()) if (WRONG_ON_BUN.test(name)) registry.removeSingleMetric(name);
  const refreshGauges = createGauges(deps);
  const refreshCost = createCostGauges(registry);
  return new Elysia({ name: "metrics" }).get(
    "/metrics",
    async ({ set }) => {
      await refreshGauges();
      const sums = AggregatorRegistry.aggregate(await deps.threadMetrics());
      await refreshCost(sums);
      set.headers["content-type"] = Registry.PROMETHEUS_CONTENT_TYPE;
      return `${await sums.metrics()}\n${await registry.metrics()}`;
    },
    { detail: metricsDetail },
  );
}

/** @returns a function that updates the gauges, to be called at every scrape */
function createGauges({ registry, store, dataLoss, depth, workers, drainSeconds }: MetricsDeps): () => Promise<void> {
  const gauge = createGaugeFactory(registry);
  const workerGauge = gauge("consumer_workers", "Consumer workers of this process by state", "state");
  const ageGauge = gauge("consumer_poll_age_seconds", "Seconds since the last progress of a worker", "worker");
  const queueGauge = gauge(
    "queue_messages",
    "Approximate number of messages in the queue and its dead-letter queue",
    "state",
  );
  const drainGauge = gauge("queue_drain_seconds", "Seconds until the queue is empty at the current rate");
  const windowGauge = gauge("marker_window_seconds", "Seconds for which an order id is remembered at least");
  const wentBackGauge = gauge(
    "store_went_back",
    "1 if the total number of orders has decreased since the process started",
  );
  const evictedGauge = gauge("store_evicted_keys", "Keys that Redis has evicted since the process started");

  function readWorkers() {
    for (const state of STATES) workerGauge.set({ state }, workers().filter((worker) => worker.state === state).length);
    // A worker that is restarting has no value.
    ageGauge.reset();
    for (const [index, { sinceProgressMs }] of workers().entries())
      if (sinceProgressMs !== undefined) ageGauge.set({ worker: `${index + 1}` }, sinceProgressMs / 1000);
  }

  async function readQueue() {
    // If the queue is unavailable, the gauge keeps its last value and the scrape still succeeds.
    const messages = await depth().catch(() => undefined);
    if (!messages) return;
    queueGauge.set({ state: "visible" }, messages.visible);
    queueGauge.set({ state: "in_flight" }, messages.inFlight);
    if (messages.deadLetter !== undefined) queueGauge.set({ state: "dead_letter" }, messages.deadLetter);
  }

  return async () => {
    readWorkers();
    wentBackGauge.set(dataLoss.wentBack() ? 1 : 0);
    evictedGauge.set(dataLoss.evictedKeys());
    const [drain, window] = await Promise.all([
      drainSeconds().catch(() => undefined),
      store.markerWindowSeconds().catch(() => undefined),
      readQueue(),
    ]);
    // If the store is unavailable, the gauge keeps its last value.
    if (window !== undefined) windowGauge.set(window);
    setOrRemove(drainGauge, drain);
  };
}

/** @returns a function that calculates the cost of an order from the sums of all threads since the process started */
function createCostGauges(registry: Registry): (sums: Sums) => Promise<void> {
  const gauge = createGaugeFactory(registry);
  const requestsGauge = gauge("sqs_requests_per_order", "SQS requests per counted order since the process started");
  const dollarsGauge = gauge(
    "sqs_dollars_per_million_orders",
    "Price of SQS requests in US dollars per million counted orders",
  );
  return async (sums) => {
    const orders = await sumSeries(sums, ORDERS_TOTAL, ["counted", "corrected"]);
    const perOrder = orders > 0 ? (await sumSeries(sums, SQS_REQUESTS_TOTAL)) / orders : undefined;
    setOrRemove(requestsGauge, perOrder);
    // The price per million requests times requests per order is the price per million orders.
    setOrRemove(dollarsGauge, perOrder && perOrder * DOLLARS_PER_MILLION_REQUESTS);
  };
}

type Sums = Pick<Registry, "getSingleMetric">;

/** @returns the sum of all series of a counter, or of the series with one of the outcomes */
async function sumSeries(sums: Sums, name: string, outcomes?: (string | number)[]): Promise<number> {
  const { values = [] } = (await sums.getSingleMetric(name)?.get()) ?? {};
  const wanted = values.filter(({ labels: { outcome = "" } }) => outcomes?.includes(outcome) ?? true);
  return wanted.reduce((total, { value }) => total + value, 0);
}

const createGaugeFactory = (registry: Registry) => (name: string, help: string, label?: string) =>
  new Gauge({ name, help, labelNames: label ? [label] : [], registers: [registry] });

function setOrRemove(gauge: Gauge, value: number | undefined) {
  if (value === undefined) gauge.remove();
  else gauge.set(value);
}

/** @returns a function that counts a request by its route pattern, not its path: user ids must not become labels */
export function createRequestTimer(registry: Registry) {
  const histogram = new Histogram({
    name: "http_request_duration_seconds",
    help: "Seconds from matching the route of a request to its response",
    labelNames: ["route", "method", "status"],
    buckets: HTTP_BUCKETS,
    registers: [registry],
  });
  // Cached, because finding a series by its labels takes a tenth of the CPU time of a request.
  const cache = new Map<string, ReturnType<typeof histogram.labels>>();
  return (route: string, method: string, status: string, seconds: number) => {
    const key = `${status} ${method} ${route}`;
    const series = cache.get(key) ?? histogram.labels({ route, method, status });
    cache.set(key, series);
    series.observe(seconds);
  };
}

const metricsDetail = operation("service", "Metrics in the text format of Prometheus", {
  contentType: "text/plain",
  response: Text('orders_total{outcome="counted"} 100\n'),
});
