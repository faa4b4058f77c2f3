import { parentPort, workerData } from "node:worker_threads";
import type { Config } from "../config.ts";
import { withDeadline } from "../deadline.ts";
import { createLog } from "../log.ts";
import { bypassProxyForLoopback } from "../loopback.ts";
import type { QueueAddress } from "../queue/client.ts";
import { openQueue } from "../queue/queue.ts";
import { createBatchWrites } from "../store/batch-writes.ts";
import { openStore, type StoreAddress } from "../store/open.ts";
import { createConsumerMetrics } from "./metrics.ts";
import { createOutcomes } from "./outcomes.ts";
import { startPolling } from "./poller.ts";
import type { ConsumerDeps } from "./process-batch.ts";
import { createStoreAvailability } from "./store-availability.ts";
import { createOffsetAt } from "./time-zone.ts";

/** The options of a worker. Plain data, because it is copied into the worker's thread. */
export interface WorkerOptions {
  index: number;
  queue: QueueAddress;
  store: StoreAddress & { timeZone: string };
  consumer: Omit<Config["consumer"], "workers">;
  log: Config["log"];
  tracing?: Config["tracing"];
}

/** The message that a worker sends to the main thread several times a second and once before it ends. */
export interface WorkerReport {
  /** Milliseconds since the last progress. */
  sinceProgressMs: number;
  /** Why the worker receives nothing: the store is unavailable, or polls fail. */
  pausedBecause?: string;
  /** JSON of prom-client. */
  metrics: object[];
}

/** Short, so that a scrape shows recent orders. A report takes about 50 µs. */
const REPORT_INTERVAL_MS = 250;
/** How long the last recent orders and spans may delay a stop. Losing them does not change any total. */
const LAST_REQUESTS_MS = 2_000;

if (!parentPort) throw new Error("consumer/worker.ts runs as a worker: start the program with index.ts");
await run(parentPort, workerData as WorkerOptions);

/** Polls until the main thread sends "stop", then finishes the batches in flight and ends the thread. */
async function run(port: NonNullable<typeof parentPort>, options: WorkerOptions) {
  bypassProxyForLoopback();
  const stopping = new AbortController();
  const { concurrency, ...rules } = options.consumer;
  const log = createLog(options.log, { worker: options.index });
  const metrics = createConsumerMetrics();
  const store = await openStore(options.store);
  const queue = openQueue(options.queue, metrics.onRequest);
  const availability = createStoreAvailability({ store, log }, stopping.signal);
  const outcomes = createOutcomes({ store, availability, metrics, log });
  // Loaded on demand: the OpenTelemetry SDK takes about 40 ms to load.
  const tracing = options.tracing && (await import("./tracing.ts")).startTracing(options.tracing, log);
  const record = createBatchWrites(store.record);
  const offsetAt = createOffsetAt(options.store.timeZone);
  const deps: ConsumerDeps = { queue, store, record, availability, outcomes, metrics, log, offsetAt, ...rules };
  if (tracing) deps.traced = tracing.traced;
  await availability.start();
  const poller = startPolling(deps, concurrency, stopping.signal);

  async function report() {
    const pausedBecause = availability.reason() ?? poller.failure();
    const message: WorkerReport = {
      sinceProgressMs: poller.sinceProgressMs(),
      metrics: await metrics.registry.getMetricsAsJSON(),
      ...(pausedBecause && { pausedBecause }),
    };
    port.postMessage(message);
  }

  const reporting = setInterval(() => {
    void report();
    void outcomes.flush();
  }, REPORT_INTERVAL_MS);
  await report();
  port.on("message", (message: "stop" | QueueAddress) => {
    if (message === "stop") stopping.abort();
    else queue.relocate(message);
  });
  await poller.done;
  clearInterval(reporting);
  await report();
  const lastRequests = [outcomes.flush, ...(tracing ? [tracing.close] : [])];
  await Promise.allSettled(lastRequests.map((send) => withDeadline(LAST_REQUESTS_MS, undefined, send)));
  queue.close();
  await store.close();
  port.close();
  // An export without a response would keep the thread alive for the ten seconds of its own deadline.
  if (tracing) process.exit(0);
}
