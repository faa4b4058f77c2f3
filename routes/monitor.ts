import type { Depth } from "../queue/queue.ts";
import { reasonOf } from "../store/reason.ts";
import type { Reads } from "../store/share.ts";
import type { Totals } from "../store/store.ts";
import { toAmount } from "./amount.ts";
import type { WorkerStatus } from "./health.ts";
import { cached, LOOK_DEADLINE_MS, within } from "./look.ts";

export interface MonitorParts {
  reads: Pick<Reads, "global">;
  depth: () => Promise<Depth>;
  workers: () => WorkerStatus[];
  /** What this process has made of its messages since its start, by outcome. */
  outcomes: () => Promise<Outcomes>;
}

export type Outcomes = Record<"counted" | "corrected" | "duplicate" | "rejected", number>;
export type Monitor = ReturnType<typeof startMonitor>;

/** What a watcher is told: the whole state, and the samples that are new to them. */
export interface State {
  as_of: string;
  total_orders: number;
  total_revenue: number;
  /** Of all processes, over the last ten seconds; null while it is not known. */
  orders_per_second: number | null;
  /** Milliseconds since the epoch and all orders then, a second apart. */
  samples: [number, number][];
  queue: (Record<"visible" | "in_flight" | "dead_letter", number> & { drain_seconds: number | null }) | null;
  workers: Pick<WorkerStatus, "state" | "reason">[];
  /** Of this process, since its start. */
  outcomes: Outcomes;
  /** What cannot be read just now, and why; the numbers above are then the last that were known. */
  problems: string[];
}

/** Makes the state for one watcher; `sinceMs` is the time of the last sample they have. */
export type Watcher = (stateSince: (sinceMs: number) => State) => void;

const SAMPLE_MS = 1_000;
/** Five minutes of samples: what a page shows of the past when it opens. */
const MAX_SAMPLES = 300;
const RATE_WINDOW_MS = 10_000;
/** With watchers the totals are looked at four times a second: what moves more often cannot be read. */
const WATCHED_MS = 250;
/** A state that has not changed is sent all the same, so that a watcher knows that it is alive; Bun cuts after 30 s. */
const HEARTBEAT_MS = 2_000;
/** Looking at the queue costs two SQS requests: 3,600 an hour while somebody watches, less than a cent. */
const QUEUE_MS = 2_000;

/** Samples the totals as long as it runs, and tells watchers what changes. Never rejects: what fails becomes a problem. */
export function startMonitor({ reads, depth, workers, outcomes }: MonitorParts) {
  const samples: { atMs: number; orders: number; settled: number }[] = [];
  const watchers = new Set<Watcher>();
  const queue = cached(() => within(LOOK_DEADLINE_MS, depth()), QUEUE_MS);
  let totals: Totals = { orders: 0, cents: 0 };
  let asOfMs = 0;
  let made: Outcomes = { counted: 0, corrected: 0, duplicate: 0, rejected: 0 };
  let storeProblem: string | undefined = "store: not read yet";
  let told = "";
  let toldAt = 0;
  let wake = () => {};
  let stopped = false;

  async function look() {
    try {
      const read = await within(LOOK_DEADLINE_MS, reads.global());
      made = await outcomes();
      ({ value: totals, asOfMs } = read);
      storeProblem = undefined;
      const { duplicate, rejected } = made;
      if (asOfMs < (samples.at(-1)?.atMs ?? 0) + SAMPLE_MS) return;
      samples.push({ atMs: asOfMs, orders: totals.orders, settled: totals.orders + duplicate + rejected });
      if (samples.length > MAX_SAMPLES) samples.shift();
    } catch (error) {
      storeProblem = `store: ${reasonOf(error)}`;
    }
  }

  /** What grew a second over the last ten; undefined where that is not known. A store that was emptied grew by nothing. */
  function perSecond(what: "orders" | "settled"): number | undefined {
    const last = samples.at(-1);
    const first = samples.find(({ atMs }) => atMs >= Date.now() - RATE_WINDOW_MS - SAMPLE_MS);
    if (!first || !last || first === last) return undefined;
    return Math.max(0, (last[what] - first[what]) / ((last.atMs - first.atMs) / 1000));
  }

  /**
   * Seconds until nothing is visible in the queue, at the rate of the last ten: orders counted by all processes, and what
   * this one rejects or finds twice. Infinity where nothing moves; undefined where rate or queue are not known.
   */
  async function drainSeconds(depth: Promise<Depth> = queue()): Promise<number | undefined> {
    const visible = (await depth.catch(() => undefined))?.visible;
    const rate = perSecond("settled");
    if (visible === 0) return 0;
    return visible === undefined || rate === undefined ? undefined : visible / rate;
  }

  async function tell() {
    // The workers' reasons are that one, where there is one.
    const paused = workers().flatMap(({ state, reason }) => (state === "paused" && reason ? [reason] : []));
    const problems = storeProblem ? [storeProblem] : [...new Set(paused)].map((reason) => `not counting: ${reason}`);
    const depth = await queue().catch((error) => {
      problems.push(`queue: ${wordsOf(error)}`);
    });
    const drain = await drainSeconds();
    const state = {
      total_orders: totals.orders,
      total_revenue: toAmount(totals.cents),
      orders_per_second: perSecond("orders") ?? null,
      queue: depth
        ? {
            visible: depth.visible,
            in_flight: depth.inFlight,
            dead_letter: depth.deadLetter,
            drain_seconds: drain !== undefined && Number.isFinite(drain) ? drain : null,
          }
        : null,
      workers: workers().map(({ state, reason }) => ({ state, ...(reason && { reason }) })),
      outcomes: made,
      problems,
    };
    const text = JSON.stringify(state);
    if (text === told && performance.now() - toldAt < HEARTBEAT_MS) return;
    told = text;
    toldAt = performance.now();
    const as_of = new Date(asOfMs).toISOString();
    for (const watcher of watchers) watcher((sinceMs) => ({ as_of, ...state, samples: samplesSince(sinceMs) }));
  }

  const samplesSince = (sinceMs: number) =>
    samples.filter(({ atMs }) => atMs > sinceMs).map(({ atMs, orders }): [number, number] => [atMs, orders]);

  async function run() {
    while (!stopped) {
      await look();
      if (watchers.size > 0) await tell();
      // Asked for in the middle of a look.
      if (stopped) break;
      const { promise, resolve } = Promise.withResolvers<void>();
      wake = resolve;
      const timer = setTimeout(resolve, watchers.size > 0 ? WATCHED_MS : SAMPLE_MS);
      await promise;
      clearTimeout(timer);
    }
  }

  const running = run();
  return {
    drainSeconds,
    /** Tells the watcher the state at once and then at every change, at most four times a second. */
    watch(watcher: Watcher): () => void {
      watchers.add(watcher);
      told = "";
      wake();
      return () => watchers.delete(watcher);
    },
    async stop() {
      stopped = true;
      wake();
      await running;
    },
  };
}

const wordsOf = (error: unknown) => (error instanceof Error ? error.message : String(error));
