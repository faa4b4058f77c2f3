import { Elysia } from "elysia";
import { AggregatorRegistry, collectDefaultMetrics, Gauge, Histogram, Registry } from "prom-client";
import type { Depth } from "../queue/queue.ts";
import { MARKER_WINDOW_SECONDS } from "../store/store.ts";
import type { WorkerStatus } from "./health.ts";
import { operation } from "./openapi.ts";

export interface MetricsParts {
  /** What only the main thread has: the process, HTTP, gauges. */
  registry: Registry;
  depth: () => Promise<Depth>;
  workers: () => WorkerStatus[];
  /** Until the queue is empty at the current rate; Infinity while nothing moves, undefined while it is not known. */
  drainSeconds: () => Promise<number | undefined>;
  /** What every thread counts, to be added up: one list of prom-client's JSON for each. */
  threadMetrics: () => Promise<object[][]>;
}

const STATES = ["running", "paused", "restarting"] as const;
/** A standard queue after the first million a month: https://aws.amazon.com/sqs/pricing/ (us-east-1). */
const DOLLARS_PER_MILLION_REQUESTS = 0.4;
const HTTP_BUCKETS = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5];

/** What Bun fills with nonsense: a maximum below the minimum, "Nan", no handle ever. */
const NONSENSE = /^(nodejs_eventloop_lag_.*|nodejs_active_.*|process_heap_bytes)$/;

/** Metrics of the whole process: the main thread's and the sums of the workers'. */
export function metricsRoutes(parts: MetricsParts) {
  const { registry } = parts;
  collectDefaultMetrics({ register: registry });
  for (const { name } of registry.getMetricsAsArray()) if (NONSENSE.test(name)) registry.removeSingleMetric(name);
  const refreshGauges = gauges(parts);
  const refreshCost = costGauges(registry);
  return new Elysia({ name: "metrics" }).get(
    "/metrics",
    async ({ set }) => {
      await refreshGauges();
      const sums = AggregatorRegistry.aggregate(await parts.threadMetrics());
      await refreshCost(sums);
      set.headers["content-type"] = Registry.PROMETHEUS_CONTENT_TYPE;
      return `${await sums.metrics()}\n${await registry.metrics()}`;
    },
    { detail: metricsDetail },
  );
}

/** Gauges that are looked up when somebody asks. */
function gauges({ registry, depth, workers, drainSeconds }: MetricsParts): () => Promise<void> {
  const gauge = gaugesOf(registry);
  const workerGauge = gauge("consumer_workers", "Consumer workers of this process by state", "state");
  const ageGauge = gauge("consumer_poll_age_seconds", "Seconds since something last moved in a worker", "worker");
  const queueGauge = gauge("queue_messages", "Messages in the queue and its dead-letter queue, about", "state");
  const drainGauge = gauge("queue_drain_seconds", "Seconds to empty the queue at the current rate, if it is known");
  gauge("marker_window_seconds", "How long an order id is remembered at least").set(MARKER_WINDOW_SECONDS);

  function lookAtWorkers() {
    for (const state of STATES) workerGauge.set({ state }, workers().filter((worker) => worker.state === state).length);
    // A worker that is being replaced has no age.
    ageGauge.reset();
    for (const [index, { sinceProgressMs }] of workers().entries())
      if (sinceProgressMs !== undefined) ageGauge.set({ worker: `${index + 1}` }, sinceProgressMs / 1000);
  }

  async function lookAtQueue() {
    // An unreachable queue must not take the other metrics with it: the gauge keeps its last value.
    const messages = await depth().catch(() => undefined);
    if (!messages) return;
    queueGauge.set({ state: "visible" }, messages.visible);
    queueGauge.set({ state: "in_flight" }, messages.inFlight);
    queueGauge.set({ state: "dead_letter" }, messages.deadLetter);
  }

  return async () => {
    lookAtWorkers();
    const [drain] = await Promise.all([drainSeconds().catch(() => undefined), lookAtQueue()]);
    setOrLeaveOut(drainGauge, drain);
  };
}

/** What an order costs, from the sums of all threads since the start of the process. */
function costGauges(registry: Registry): (sums: Sums) => Promise<void> {
  const gauge = gaugesOf(registry);
  const requestsGauge = gauge("sqs_requests_per_order", "SQS requests per order counted, since the process started");
  const dollarsGauge = gauge("sqs_dollars_per_million_orders", "US dollars of SQS requests per million orders counted");
  return async (sums) => {
    const orders = await sum(sums, "orders_total", ["counted", "corrected"]);
    const perOrder = orders > 0 ? (await sum(sums, "sqs_requests_total")) / orders : undefined;
    setOrLeaveOut(requestsGauge, perOrder);
    // Dollars per million requests and per million orders: the millions cancel.
    setOrLeaveOut(dollarsGauge, perOrder && perOrder * DOLLARS_PER_MILLION_REQUESTS);
  };
}

type Sums = Pick<Registry, "getSingleMetric">;

/** The sum of a counter's series, or of those with one of the outcomes. */
async function sum(sums: Sums, name: string, outcomes?: (string | number)[]): Promise<number> {
  const { values = [] } = (await sums.getSingleMetric(name)?.get()) ?? {};
  const wanted = values.filter(({ labels: { outcome = "" } }) => outcomes?.includes(outcome) ?? true);
  return wanted.reduce((total, { value }) => total + value, 0);
}

const gaugesOf = (registry: Registry) => (name: string, help: string, label?: string) =>
  new Gauge({ name, help, labelNames: label ? [label] : [], registers: [registry] });

function setOrLeaveOut(gauge: Gauge, value: number | undefined) {
  if (value === undefined) gauge.remove();
  else gauge.set(value);
}

/** Times requests by route pattern, so that user ids do not become labels. Answers what is told of each request. */
export function requestTimer(registry: Registry) {
  const histogram = new Histogram({
    name: "http_request_duration_seconds",
    help: "Seconds from a request to its answer",
    labelNames: ["route", "method", "status"],
    buckets: HTTP_BUCKETS,
    registers: [registry],
  });
  // Looking a series up by its labels would cost a tenth of a request.
  const series = new Map<string, ReturnType<typeof histogram.labels>>();
  return (route: string, method: string, status: string, seconds: number) => {
    const key = `${status} ${method} ${route}`;
    const known = series.get(key) ?? histogram.labels({ route, method, status });
    series.set(key, known);
    known.observe(seconds);
  };
}

const metricsDetail = operation({
  tag: "service",
  summary: "Metrics in Prometheus' text format",
  contentType: "text/plain",
  schema: { type: "string" },
  example: 'orders_total{outcome="counted"} 100\n',
});
