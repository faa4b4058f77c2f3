import { Worker } from "node:worker_threads";
import { AggregatorRegistry } from "prom-client";
import { messageOf } from "../errors.ts";
import type { Log } from "../log.ts";
import type { QueueAddress } from "../queue/client.ts";
import type { Outcome } from "../store/store.ts";
import type { WorkerStatus } from "../worker-status.ts";
import { countOutcomes } from "./metrics.ts";
import { pause, RETRY, retryPauseMs } from "./retry.ts";
import type { WorkerOptions, WorkerReport } from "./worker.ts";

export interface Pool {
  status(): WorkerStatus[];
  /** Metrics of each worker as JSON of prom-client, since the start and including workers that were replaced. */
  metrics(): Promise<object[][]>;
  /** Number of orders by outcome since the start. */
  outcomes(): Promise<Record<Outcome, number>>;
  /** Makes all workers, also those that are started later, use this address of the queue. */
  relocate(queue: QueueAddress): void;
  /** Stops all workers. They finish their batches; those that take longer than eight seconds are terminated. */
  stop(): Promise<void>;
}

/** A worker reports four times a second. One that has not reported for five seconds is in an endless loop or blocked. */
const MAX_SILENCE_MS = 5_000;
/** A receive takes at most 1 s of wait time and 25 s for a slow server, a batch two requests of 10 s and 5 s in the store. */
const MAX_POLL_MS = 30_000;
/** Loading the modules takes less than a second, connecting to the store a few seconds at most. */
const MAX_START_MS = 20_000;
const SUPERVISE_INTERVAL_MS = 500;
/** A worker that has run this long was healthy, so its next crash is treated as the first one. */
const HEALTHY_AFTER_MS = 60_000;
/** A stop should take at most ten seconds, two of them for closing everything else. */
const STOP_DEADLINE_MS = 8_000;

/**
 * Starts the consumer workers, supervises them and replaces those that crash or get stuck.
 *
 * @param file the module of the workers
 * @throws the error of the first worker that cannot start; the others are stopped
 */
export async function startPool(
  size: number,
  options: Omit<WorkerOptions, "index">,
  log: Log,
  file = new URL("./worker.ts", import.meta.url),
): Promise<Pool> {
  const stopping = new AbortController();
  const slots = Array.from({ length: size }, (_, index) =>
    createSlot(file, { ...options, index: index + 1 }, log, stopping.signal),
  );
  const supervising = setInterval(() => slots.forEach((slot) => void slot.supervise()), SUPERVISE_INTERVAL_MS);

  async function stop() {
    stopping.abort();
    clearInterval(supervising);
    await Promise.all(slots.map((slot) => slot.stop()));
  }

  try {
    await Promise.all(slots.map((slot) => slot.start()));
  } catch (error) {
    await stop();
    throw error;
  }
  const metrics = async () => (await Promise.all(slots.map((slot) => slot.metrics()))).flat();
  const outcomes = async () => countOutcomes((await metrics()).flat());
  const relocate = (queue: QueueAddress) => slots.forEach((slot) => void slot.relocate(queue));
  return { status: () => slots.map((slot) => slot.status()), metrics, outcomes, relocate, stop };
}

/** One worker of the pool, and its replacements. */
function createSlot(file: URL, options: WorkerOptions, log: Log, stopping: AbortSignal) {
  let worker: Worker | undefined;
  /** The worker that is being terminated because it got stuck. */
  let terminating: Worker | undefined;
  let report: WorkerReport | undefined;
  let reportedAt = 0;
  let startedAt = 0;
  let crashes = 0;
  let lastCrash = "";
  /** Metrics of replaced workers, summed. */
  let retired: object[] = [];

  /** Resolves with the first report of the worker; rejects if it ends before. */
  async function start() {
    const started = new Worker(file, { workerData: options });
    worker = started;
    startedAt = performance.now();
    started.on("message", (message: WorkerReport) => {
      report = message;
      reportedAt = performance.now();
    });
    let cause: Error | undefined;
    // Without this listener an error in the worker would end the whole process.
    started.on("error", (error) => {
      cause = error instanceof Error ? error : new Error(String(error));
    });
    const exited = exitOf(started).then(async (code) => {
      if (worker === started) await retire();
      return cause ?? new Error(`the worker ended with code ${code}`);
    });
    const reported = new Promise<void>((resolve) => started.once("message", () => resolve()));
    const failure = await Promise.race([reported, exited]);
    if (failure) throw failure;
    // Any exit that was not requested is a crash, even with code 0: that is how an unhandled rejection ends a worker.
    void exited.then(restart);
  }

  async function restart(cause: unknown): Promise<void> {
    if (stopping.aborted) return;
    if (performance.now() - startedAt > HEALTHY_AFTER_MS) crashes = 0;
    const pauseMs = retryPauseMs(RETRY.workerRestart, ++crashes);
    lastCrash = messageOf(cause);
    log.error({ event: "worker_crashed", worker: options.index, restartInMs: pauseMs, error: cause });
    await pause(pauseMs, stopping);
    if (stopping.aborted) return;
    await start().then(() => log.info({ event: "worker_restarted", worker: options.index }), restart);
  }

  async function retire() {
    worker = undefined;
    retired = await sum([retired, report?.metrics ?? []]);
    report = undefined;
  }

  /** @returns why the worker is considered stuck; undefined if it is not */
  function stuckReason(): string | undefined {
    if (!worker) return undefined;
    if (!report) return performance.now() - startedAt > MAX_START_MS ? "it does not start" : undefined;
    if (performance.now() - reportedAt > MAX_SILENCE_MS) return `no report for ${MAX_SILENCE_MS / 1000} s`;
    const makesProgress = report.pausedBecause !== undefined || report.sinceProgressMs < MAX_POLL_MS;
    return makesProgress ? undefined : `no progress for ${MAX_POLL_MS / 1000} s`;
  }

  /** Terminates a worker that is stuck. Its exit is then handled like a crash. */
  async function supervise() {
    const reason = stuckReason();
    if (!reason || worker === terminating) return;
    terminating = worker;
    log.error({ event: "worker_stuck", worker: options.index, reason });
    await worker?.terminate();
  }

  function status(): WorkerStatus {
    if (!worker || !report) return { state: "restarting", ...(lastCrash && { reason: lastCrash }) };
    const reason = report.pausedBecause ?? stuckReason();
    const sinceProgressMs = report.sinceProgressMs + performance.now() - reportedAt;
    const state = report.pausedBecause === undefined ? "running" : "paused";
    return { state, ...(reason && { reason }), sinceProgressMs };
  }

  function relocate(queue: QueueAddress) {
    options.queue = queue;
    worker?.postMessage(queue);
  }

  async function stop() {
    const ending = worker;
    if (!ending) return;
    const exited = exitOf(ending);
    ending.postMessage("stop");
    const timer = setTimeout(() => {
      log.warn({ event: "worker_terminated", worker: options.index, afterMs: STOP_DEADLINE_MS });
      void ending.terminate();
    }, STOP_DEADLINE_MS);
    await exited;
    clearTimeout(timer);
  }

  return { start, stop, supervise, status, relocate, metrics: async () => [retired, report?.metrics ?? []] };
}

/** Not `once(worker, "exit")`, which rejects when the worker throws. */
const exitOf = (worker: Worker) => new Promise<number>((resolve) => worker.once("exit", resolve));

/** Sums metrics the way prom-client does for the workers of a Node.js cluster. */
async function sum(metrics: object[][]): Promise<object[]> {
  return await AggregatorRegistry.aggregate(metrics).getMetricsAsJSON();
}
