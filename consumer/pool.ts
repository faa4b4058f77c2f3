import { setTimeout as delay } from "node:timers/promises";
import { Worker } from "node:worker_threads";
import { AggregatorRegistry } from "prom-client";
import type { Log } from "../log.ts";
import type { Outcome } from "./metrics.ts";
import type { WorkerOptions, WorkerReport } from "./worker.ts";

export type WorkerState = "running" | "paused" | "restarting";

export interface WorkerStatus {
  state: WorkerState;
  /** Why it does not run. */
  reason?: string;
  /** How long nothing has moved in it, ms; absent while it is being replaced. */
  sinceProgressMs?: number;
}

export interface Pool {
  status(): WorkerStatus[];
  /** What the workers have counted since the start, those that have died included; prom-client's JSON. */
  metrics(): Promise<object[][]>;
  /** Orders by outcome since the start, out of the same. */
  outcomes(): Promise<Record<Outcome, number>>;
  /** Every worker settles or releases what it holds; after eight seconds the rest is left to redelivery. */
  stop(): Promise<void>;
}

/** A worker reports four times a second; one that is silent for five is spinning or blocked. */
const SILENCE_MS = 5_000;
/** A receive takes at most its 20 s wait and 5 s of grace; settling its batch two requests of 10 s and the store's 5. */
const MAX_STEP_MS = 30_000;
/** Loading its modules takes a worker a fraction of a second, and connecting to the store at most some. */
const MAX_START_MS = 20_000;
const WATCH_INTERVAL_MS = 500;
const FIRST_RESTART_PAUSE_MS = 100;
const MAX_RESTART_PAUSE_MS = 10_000;
/** A worker that ran this long was fine: its next crash is a first one again. */
const SOUND_AFTER_MS = 60_000;
/** A whole stop takes at most ten seconds; two are for closing everything else. */
const STOP_DEADLINE_MS = 8_000;

/** Starts the consumers, watches them and replaces those that die. Rejects when one cannot start at all. */
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
  const watch = setInterval(() => slots.forEach((slot) => void slot.watch()), WATCH_INTERVAL_MS);

  async function stop() {
    stopping.abort();
    clearInterval(watch);
    await Promise.all(slots.map((slot) => slot.stop()));
  }

  try {
    await Promise.all(slots.map((slot) => slot.start()));
  } catch (error) {
    await stop();
    throw error;
  }
  const metrics = async () => (await Promise.all(slots.map((slot) => slot.metrics()))).flat();
  const outcomes = async () => outcomesIn((await metrics()).flat() as Metric[]);
  return { status: () => slots.map((slot) => slot.status()), metrics, outcomes, stop };
}

/** One of prom-client's JSON. */
type Metric = { name: string; values: { value: number; labels: { outcome?: Outcome } }[] };

function outcomesIn(metrics: Metric[]): Record<Outcome, number> {
  const sums = { counted: 0, corrected: 0, duplicate: 0, rejected: 0 };
  const values = metrics.filter(({ name }) => name === "orders_total").flatMap((metric) => metric.values);
  for (const { value, labels } of values) if (labels.outcome) sums[labels.outcome] += value;
  return sums;
}

/** One place in the pool and the worker that fills it, again and again. */
function createSlot(file: URL, options: WorkerOptions, log: Log, stopping: AbortSignal) {
  let worker: Worker | undefined;
  /** The one that is being ended for being stuck. */
  let condemned: Worker | undefined;
  let report: WorkerReport | undefined;
  let reportedAt = 0;
  let startedAt = 0;
  let crashes = 0;
  let lastCrash = "";
  /** Sums of the workers that died here. */
  let buried: object[] = [];

  /** Resolves with the worker's first report; rejects when it dies before. */
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
      if (worker === started) await bury();
      return cause ?? new Error(`the worker ended with code ${code}`);
    });
    const reported = new Promise<void>((resolve) => started.once("message", () => resolve()));
    const died = await Promise.race([reported, exited]);
    if (died) throw died;
    // Any exit that was not asked for is a crash, even with code 0: an unhandled rejection ends like that.
    void exited.then(restart);
  }

  async function restart(cause: unknown): Promise<void> {
    if (stopping.aborted) return;
    if (performance.now() - startedAt > SOUND_AFTER_MS) crashes = 0;
    const pauseMs = Math.min(FIRST_RESTART_PAUSE_MS * 2 ** crashes++, MAX_RESTART_PAUSE_MS);
    lastCrash = cause instanceof Error ? cause.message : String(cause);
    log.error({ event: "worker_crashed", worker: options.index, restartInMs: pauseMs, error: cause });
    await delay(pauseMs, undefined, { signal: stopping }).catch(() => {});
    if (stopping.aborted) return;
    await start().then(() => log.info({ event: "worker_restarted", worker: options.index }), restart);
  }

  async function bury() {
    worker = undefined;
    buried = await sum([buried, report?.metrics ?? []]);
    report = undefined;
  }

  function stuck(): string | undefined {
    if (!worker) return undefined;
    if (!report) return performance.now() - startedAt > MAX_START_MS ? "it does not start" : undefined;
    if (performance.now() - reportedAt > SILENCE_MS) return `silent for ${SILENCE_MS / 1000} s`;
    const polled = report.pausedBecause !== undefined || report.sinceProgressMs < MAX_STEP_MS;
    return polled ? undefined : `nothing has moved for ${MAX_STEP_MS / 1000} s`;
  }

  /** Ends a worker that is stuck; its exit is a crash like any other. */
  async function watch() {
    const reason = stuck();
    if (!reason || worker === condemned) return;
    condemned = worker;
    log.error({ event: "worker_stuck", worker: options.index, reason });
    await worker?.terminate();
  }

  function status(): WorkerStatus {
    if (!worker || !report) return { state: "restarting", ...(lastCrash && { reason: lastCrash }) };
    const reason = report.pausedBecause ?? stuck();
    const sinceProgressMs = report.sinceProgressMs + performance.now() - reportedAt;
    const state = report.pausedBecause === undefined ? "running" : "paused";
    return { state, ...(reason && { reason }), sinceProgressMs };
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

  return { start, stop, watch, status, metrics: async () => [buried, report?.metrics ?? []] };
}

/** Not `once(worker, "exit")`: that rejects when the worker dies of an error. */
const exitOf = (worker: Worker) => new Promise<number>((resolve) => worker.once("exit", resolve));

/** Adds metrics up, as prom-client does for the workers of a cluster. */
async function sum(metrics: object[][]): Promise<object[]> {
  return await AggregatorRegistry.aggregate(metrics).getMetricsAsJSON();
}
