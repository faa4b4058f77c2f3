import { Elysia } from "elysia";
import { AggregatorRegistry, collectDefaultMetrics, Gauge, Histogram, Registry } from "prom-client";
import type { Depth } from "../queue/queue.ts";
import type { WorkerStatus } from "./health.ts";
import { operation } from "./openapi.ts";

export interface MetricsParts {
  /** What only the main thread has: the process, HTTP, gauges. */
  registry: Registry;
  depth: () => Promise<Depth>;
  workers: () => WorkerStatus[];
  /** What every thread counts, to be added up: one list of prom-client's JSON for each. */
  threadMetrics: () => Promise<object[][]>;
}

const STATES = ["running", "paused", "restarting"] as const;
const HTTP_BUCKETS = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5];

/** Metrics of the whole process: the main thread's and the sums of the workers'. */
export function metricsRoutes(parts: MetricsParts) {
  const { registry } = parts;
  collectDefaultMetrics({ register: registry });
  // Bun fills these with nonsense (a maximum below the minimum, "Nan").
  for (const { name } of registry.getMetricsAsArray()) {
    if (name.startsWith("nodejs_eventloop_lag_") || name === "process_heap_bytes") registry.removeSingleMetric(name);
  }
  const refresh = gauges(parts);
  return new Elysia({ name: "metrics" }).get(
    "/metrics",
    async ({ set }) => {
      await refresh();
      const sums = AggregatorRegistry.aggregate(await parts.threadMetrics());
      set.headers["content-type"] = Registry.PROMETHEUS_CONTENT_TYPE;
      return `${await sums.metrics()}\n${await registry.metrics()}`;
    },
    { detail: metricsDetail },
  );
}

/** Gauges that are looked up when somebody asks. */
function gauges({ registry, depth, workers }: MetricsParts): () => Promise<void> {
  const registers = [registry];
  const labelNames = ["state"];
  const workerGauge = new Gauge({
    name: "consumer_workers",
    help: "Consumer workers by state",
    labelNames,
    registers,
  });
  const queueGauge = new Gauge({
    name: "queue_messages",
    help: "Messages in the queue, about",
    labelNames,
    registers,
  });
  return async () => {
    for (const state of STATES) workerGauge.set({ state }, workers().filter((worker) => worker.state === state).length);
    // An unreachable queue must not take the other metrics with it: the gauge keeps its last value.
    const messages = await depth().catch(() => undefined);
    if (!messages) return;
    queueGauge.set({ state: "visible" }, messages.visible);
    queueGauge.set({ state: "in_flight" }, messages.inFlight);
    queueGauge.set({ state: "dead_letter" }, messages.deadLetter);
  };
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
