import { parentPort, workerData } from "node:worker_threads";
import type { Config } from "../config.ts";
import { createLog } from "../log.ts";
import { type QueueAddress, withDeadline } from "../queue/client.ts";
import { openQueue } from "../queue/queue.ts";
import { joinBatches } from "../store/join.ts";
import { openStore, type StoreAddress } from "../store/open.ts";
import { createConsumerMetrics } from "./metrics.ts";
import { startPolling } from "./poll.ts";
import { createRecent } from "./recent.ts";
import type { ConsumerParts } from "./settle.ts";
import { createStoreGate } from "./store-gate.ts";

/** What a worker is started with: plain data, copied into its thread. */
export interface WorkerOptions {
  index: number;
  queue: QueueAddress;
  store: StoreAddress;
  consumer: Pick<Config["consumer"], "concurrency" | "onValueMismatch">;
  log: Config["log"];
  tracing?: Config["tracing"];
}

/** What a worker tells the main thread, several times a second and once more at its end. */
export interface WorkerReport {
  /** How long nothing has moved, ms. */
  sinceProgressMs: number;
  /** Why nothing is received just now: the store is away, or receives fail. */
  pausedBecause?: string;
  metrics: object[];
}

/** Often enough that a scrape right after a burst shows it; a report costs some 50 µs. */
const REPORT_INTERVAL_MS = 250;
/** Neither orders to look at nor spans are worth a stop that hangs. */
const LAST_WORDS_MS = 2_000;

if (!parentPort) throw new Error("consumer/worker.ts runs as a worker: start the program with index.ts");
await run(parentPort, workerData as WorkerOptions);

/** Consumes until the main thread says "stop", then settles or releases what it holds and ends its thread. */
async function run(port: NonNullable<typeof parentPort>, options: WorkerOptions) {
  const stopping = new AbortController();
  const log = createLog(options.log, { worker: options.index });
  const metrics = createConsumerMetrics();
  const store = await openStore(options.store);
  const queue = openQueue(options.queue, metrics.onRequest);
  const gate = createStoreGate({ store, log }, stopping.signal);
  const recent = createRecent({ store, gate, log });
  // Loaded only where it is wanted: the SDK is some 40 ms of start.
  const tracing = options.tracing && (await import("./tracing.ts")).startTracing(options.tracing, log);
  const { onValueMismatch, concurrency } = options.consumer;
  const record = joinBatches(store.record);
  const parts: ConsumerParts = { queue, store, record, gate, recent, metrics, log, onValueMismatch };
  if (tracing) parts.traced = tracing.traced;
  const poller = startPolling(parts, concurrency, stopping.signal);

  async function report() {
    const pausedBecause = gate.reason() ?? poller.failure();
    const snapshot = await metrics.registry.getMetricsAsJSON();
    const message: WorkerReport = {
      sinceProgressMs: poller.sinceProgressMs(),
      metrics: snapshot,
      ...(pausedBecause && { pausedBecause }),
    };
    port.postMessage(message);
  }

  const reporting = setInterval(() => {
    void report();
    void recent.flush();
  }, REPORT_INTERVAL_MS);
  await report();
  port.once("message", () => stopping.abort());
  await poller.done;
  clearInterval(reporting);
  await report();
  const lastWords = [recent.flush, ...(tracing ? [tracing.close] : [])];
  await Promise.allSettled(lastWords.map((send) => withDeadline(LAST_WORDS_MS, undefined, send)));
  queue.close();
  await store.close();
  port.close();
  // An export that nobody answers would keep the thread for its own deadline, ten seconds.
  if (tracing) process.exit(0);
}
