import { cachedFor, withDeadline } from "../deadline.ts";
import { messageOf } from "../errors.ts";
import type { Queue } from "../queue/queue.ts";
import { withoutDetails } from "../queue/request.ts";
import type { DataLoss } from "../store/data-loss.ts";
import { todayIn } from "../store/periods.ts";
import { describeRedisError } from "../store/redis-errors.ts";
import type { Reads } from "../store/single-flight.ts";
import { NO_ORDERS, OUTCOMES, type Outcome, type Store, type Totals } from "../store/store.ts";
import type { WorkerStatus } from "../worker-status.ts";
import { toAmount } from "./amount.ts";
import { PROBE_DEADLINE_MS } from "./health.ts";

export interface LiveDeps {
  store: Pick<Store, "check">;
  timeZone: string;
  dataLoss: DataLoss;
  reads: Pick<Reads, "global">;
  depth: Queue["depth"];
  workers: () => WorkerStatus[];
  /** Number of orders by outcome, of this process since its start. */
  outcomes: () => Promise<Outcomes>;
}

export type Outcomes = Record<Outcome, number>;
export type Live = ReturnType<typeof startLive>;

/** The data of an event: the complete state, and the samples that are new to the subscriber. */
export interface State {
  as_of: string;
  /** IANA name of the time zone whose days are counted, and the current date in it. */
  time_zone: string;
  today: string;
  total_orders: number;
  total_revenue: number;
  /** Orders counted by all processes, averaged over the last ten seconds; null while unknown. */
  orders_per_second: number | null;
  /** Times in milliseconds since the epoch, one second apart, each with the total number of orders. */
  samples: [number, number][];
  queue: (Record<"visible" | "in_flight", number> & Record<"dead_letter" | "drain_seconds", number | null>) | null;
  workers: Pick<WorkerStatus, "state" | "reason">[];
  /** Of this process, since its start. */
  outcomes: Outcomes;
  /** What fails, and why. While the store cannot be read, the totals are the last ones that were read. */
  problems: string[];
}

/** Is called at every change, with a function that returns the state and the samples after `sinceMs`. */
export type Subscriber = (stateSince: (sinceMs: number) => State) => void;

const SAMPLE_MS = 1_000;
/** With subscribers, the totals are read four times a second. A reader cannot follow faster changes. */
const SUBSCRIBED_MS = 250;
/** An unchanged state is published after this time: clients detect a lost connection, and Bun closes streams that are idle for 30 s. */
const HEARTBEAT_MS = 2_000;
/** Reading the depth takes two SQS requests: with subscribers 3,600 an hour, which cost less than a cent. */
const DEPTH_MS = 2_000;

/**
 * Samples the totals until `stop`, and publishes changes to subscribers. Failures are published as problems.
 *
 * @returns `subscribe`, `stop`, and `drainSeconds`: the seconds until the queue is empty
 */
export function startLive({ store, timeZone, dataLoss, reads, depth, workers, outcomes }: LiveDeps) {
  const history = createHistory();
  const subscribers = new Set<Subscriber>();
  const cachedDepth = cachedFor(DEPTH_MS, () => depth(PROBE_DEADLINE_MS));
  let totals = NO_ORDERS;
  let asOfMs = 0;
  let counts = Object.fromEntries(OUTCOMES.map((outcome) => [outcome, 0])) as Outcomes;
  let storeProblem: string | undefined = "store: not read yet";
  let checkedAt = Number.NEGATIVE_INFINITY;
  let published = { text: "", at: 0 };
  let endSleep = () => {};
  let stopped = false;

  async function run() {
    while (!stopped) {
      await sample();
      if (subscribers.size > 0) await publish();
      // stop() may have been called in the meantime.
      if (!stopped) await sleep(subscribers.size > 0 ? SUBSCRIBED_MS : SAMPLE_MS);
    }
  }

  async function sample() {
    try {
      await checkStore();
      const takenAt = performance.now();
      const read = await withDeadline(PROBE_DEADLINE_MS, undefined, () => reads.global());
      counts = await outcomes();
      ({ value: totals, asOfMs } = read);
      dataLoss.inspectTotal(totals);
      storeProblem = undefined;
      history.add(takenAt, asOfMs, totals.orders, totals.orders + counts.duplicate + counts.rejected);
    } catch (error) {
      storeProblem = `store: ${describeRedisError(error)}`;
    }
  }

  /**
   * Checks the store, at most once a second. The check writes, which reads alone would not replace: after a failover the old
   * master still serves reads, and only a write fails with READONLY, which makes the client reconnect.
   */
  async function checkStore() {
    if (performance.now() - checkedAt < SAMPLE_MS) return;
    checkedAt = performance.now();
    const calls = [store.check, dataLoss.inspectEvictions];
    await Promise.allSettled(calls.map((call) => withDeadline(PROBE_DEADLINE_MS, undefined, call)));
  }

  async function publish() {
    const problems = listProblems();
    const queue = await readQueue(problems).catch((error) => {
      problems.push(`queue ${messageOf(error)}`);
      return null;
    });
    const state = {
      time_zone: timeZone,
      today: todayIn(timeZone),
      total_orders: totals.orders,
      total_revenue: toAmount(totals.cents),
      orders_per_second: history.perSecond("orders") ?? null,
      queue,
      workers: workers().map(({ state, reason }) => ({ state, ...(reason && { reason: withoutDetails(reason) }) })),
      outcomes: counts,
      problems: problems.map(withoutDetails),
    };
    const text = JSON.stringify(state);
    if (text === published.text && performance.now() - published.at < HEARTBEAT_MS) return;
    published = { text, at: performance.now() };
    const as_of = new Date(asOfMs).toISOString();
    for (const send of subscribers) send((sinceMs) => ({ as_of, ...state, samples: history.since(sinceMs) }));
  }

  function listProblems(): string[] {
    // While the store is unavailable, workers are paused for the same reason: do not repeat it.
    const paused = workers().flatMap(({ state, reason }) => (state === "paused" && reason ? [reason] : []));
    const problems = storeProblem ? [storeProblem] : [...new Set(paused)].map((reason) => `not counting: ${reason}`);
    return [...problems, ...dataLoss.problems()];
  }

  /** Adds a problem of the dead-letter queue to `problems`: the others are not affected by it. */
  async function readQueue(problems: string[]) {
    const { visible, inFlight, deadLetter, deadLetterProblem } = await cachedDepth();
    if (deadLetterProblem) problems.push(`dead-letter queue ${deadLetterProblem}`);
    const drain = await drainSeconds();
    const drain_seconds = drain !== undefined && Number.isFinite(drain) ? drain : null;
    return { visible, in_flight: inFlight, dead_letter: deadLetter ?? null, drain_seconds };
  }

  /**
   * @returns seconds until no message is visible, at the rate of the last ten seconds: orders counted by all processes, plus
   *   duplicate and rejected orders of this process. Infinity if the rate is zero; undefined while rate or depth is unknown
   */
  async function drainSeconds(): Promise<number | undefined> {
    const visible = (await cachedDepth().catch(() => undefined))?.visible;
    const rate = history.perSecond("processed");
    if (visible === 0) return 0;
    return visible === undefined || rate === undefined ? undefined : visible / rate;
  }

  async function sleep(ms: number) {
    const { promise, resolve } = Promise.withResolvers<void>();
    endSleep = resolve;
    const timer = setTimeout(resolve, ms);
    await promise;
    clearTimeout(timer);
  }

  const running = run();
  return {
    drainSeconds,
    /** Publishes the state to the subscriber at once and then at every change. @returns a function that unsubscribes */
    subscribe(subscriber: Subscriber): () => void {
      subscribers.add(subscriber);
      published.text = "";
      endSleep();
      return () => subscribers.delete(subscriber);
    },
    async stop() {
      stopped = true;
      endSleep();
      await running;
    },
  };
}

/** Five minutes, the time range of the plot on the dashboard. */
const MAX_SAMPLES = 300;
const RATE_WINDOW_MS = 10_000;

interface Sample {
  /** By performance.now(), for durations. */
  takenAt: number;
  /** Since the epoch, for people and as the id of events. */
  atMs: number;
  orders: Totals["orders"];
  /** Orders counted by all processes, plus duplicate and rejected orders of this process. */
  processed: number;
}

/** Keeps the latest samples, at least one second apart, and calculates rates from them, by a clock that is never set. */
function createHistory() {
  const samples: Sample[] = [];

  function add(takenAt: number, atMs: number, orders: number, processed: number) {
    if (takenAt < (samples.at(-1)?.takenAt ?? Number.NEGATIVE_INFINITY) + SAMPLE_MS) return;
    samples.push({ takenAt, atMs, orders, processed });
    if (samples.length > MAX_SAMPLES) samples.shift();
  }

  /** @returns the increase per second over the last ten seconds; 0 if the total decreased, undefined while unknown */
  function perSecond(what: "orders" | "processed"): number | undefined {
    const last = samples.at(-1);
    const first = samples.find(({ takenAt }) => takenAt >= performance.now() - RATE_WINDOW_MS);
    if (!first || !last || first === last) return undefined;
    return Math.max(0, (last[what] - first[what]) / ((last.takenAt - first.takenAt) / 1000));
  }

  /** @returns the samples after the one of `sinceMs`. If it is not ours, those of a later time */
  function since(sinceMs: number) {
    // Not only by time: after the clock was set back, newer samples have earlier times.
    const seen = samples.findLastIndex(({ atMs }) => atMs === sinceMs);
    const fresh = samples.filter(({ atMs }, index) => (seen === -1 ? atMs > sinceMs : index > seen));
    return fresh.map(({ atMs, orders }): [number, number] => [atMs, orders]);
  }

  return { add, perSecond, since };
}
