import type { Log } from "../log.ts";
import { type Failure, type Message, type Queue, reasonOf } from "../queue/queue.ts";
import type { Recorded, Store } from "../store/store.ts";
import type { ConsumerMetrics, Outcome } from "./metrics.ts";
import { type Judged, judge, type OnValueMismatch } from "./order.ts";
import { pause } from "./pause.ts";
import type { Recent } from "./recent.ts";
import type { StoreGate } from "./store-gate.ts";

export interface ConsumerParts {
  queue: Queue;
  store: Store;
  /** The store's `record`, or one that joins batches before it. */
  record: Store["record"];
  gate: StoreGate;
  recent: Recent;
  metrics: ConsumerMetrics;
  log: Log;
  /** The same parts with their requests in spans of this batch; absent while nobody collects spans. */
  traced?(parts: ConsumerParts, messages: readonly Message[]): ConsumerParts;
  onValueMismatch: OnValueMismatch;
}

type Accepted = { message: Message } & Exclude<Judged, { outcome: "rejected" }>;
type Rejected = { message: Message } & Extract<Judged, { outcome: "rejected" }>;
type Settled = Accepted & { recorded: Recorded };

/** A store that takes writes but fails this often on one batch refuses something in that batch. */
const MAX_REFUSALS = 3;
/** Between them: a connection that broke in the middle of the answer is no refusal. */
const REFUSAL_PAUSE_MS = 200;

/**
 * Judges and records one batch of messages, and answers what may be deleted. Nothing leaves the queue before the
 * store has answered, so that a death on any line leads to a redelivery, which the marker turns into a duplicate.
 */
export async function settle(
  parts: ConsumerParts,
  messages: readonly Message[],
  stopping: AbortSignal,
): Promise<(Settled | Rejected)[]> {
  const { accepted, rejected } = judgeAll(messages, parts.onValueMismatch);
  const [recorded, buried] = await Promise.all([
    recordOrHold(parts, accepted, messages, stopping),
    bury(parts, rejected),
  ]);
  count(parts.metrics, recorded, buried.length);
  noteExceptions(parts.recent, recorded, buried);
  return [...recorded, ...buried];
}

function judgeAll(messages: readonly Message[], onValueMismatch: OnValueMismatch) {
  const accepted: Accepted[] = [];
  const rejected: Rejected[] = [];
  for (const message of messages) {
    const judged: Judged = judge(message.body, onValueMismatch);
    if (judged.outcome === "rejected") rejected.push({ message, ...judged });
    else accepted.push({ message, ...judged });
  }
  return { accepted, rejected };
}

/**
 * Records the batch. While the store is away the whole batch is held: hidden from others and tried again, until it
 * is recorded or, at the stop, released. Answers the orders that were recorded.
 */
async function recordOrHold(
  parts: ConsumerParts,
  accepted: readonly Accepted[],
  held: readonly Message[],
  stopping: AbortSignal,
): Promise<Settled[]> {
  if (accepted.length === 0) return [];
  for (let refusals = 0; ; ) {
    try {
      return await record(parts, accepted);
    } catch {
      if (stopping.aborted) return await release(parts, accepted);
      if (await storeIsAway(parts)) await holdUntilStoreIsBack(parts, held, stopping);
      else if (++refusals === MAX_REFUSALS) return await recordOneByOne(parts, accepted);
      else await pause(REFUSAL_PAUSE_MS, stopping);
      if (stopping.aborted) return await release(parts, accepted);
    }
  }
}

/** Closes the gate unless the store takes other writes: then it is this batch that it refuses. */
async function storeIsAway({ store, gate }: ConsumerParts): Promise<boolean> {
  try {
    await store.check();
    return false;
  } catch (away) {
    gate.close(away);
    return true;
  }
}

async function record({ record, metrics }: ConsumerParts, accepted: readonly Accepted[]): Promise<Settled[]> {
  const applied = metrics.applySeconds.startTimer();
  const answers = await record(accepted.map(({ order }) => order));
  applied();
  return accepted.map((one, index) => ({ ...one, recorded: answers[index] as Recorded }));
}

/** Finds the orders that the store refuses. They stay in the queue: its redrive policy ends their tries. */
async function recordOneByOne(parts: ConsumerParts, accepted: readonly Accepted[]): Promise<Settled[]> {
  const settled: Settled[] = [];
  for (const one of accepted) {
    try {
      // By itself: joined to others, they would be refused as well.
      settled.push(...(await record({ ...parts, record: parts.store.record }, [one])));
    } catch (error) {
      parts.log.error({ event: "order_refused", order_id: one.order.id, message_id: one.message.id, error });
    }
  }
  return settled;
}

/** Keeps the batch hidden from other consumers until the store is back, or the stop. */
async function holdUntilStoreIsBack(
  { queue, gate, log }: ConsumerParts,
  held: readonly Message[],
  stopping: AbortSignal,
) {
  const { visibilityTimeoutSeconds } = queue.address;
  const released = new AbortController();
  const back = gate.whenOpen().then(() => released.abort());
  const signal = AbortSignal.any([released.signal, stopping]);
  let failed = false;
  while (!signal.aborted) {
    const failures = await queue.changeVisibility(held, visibilityTimeoutSeconds).catch(allFailed(held));
    // Once a hold: what is visible again is delivered again, and a duplicate in the end.
    if (failures.length > 0 && !failed) log.warn({ event: "hold_failed", ...together(failures) });
    failed ||= failures.length > 0;
    // Three tries before the time is over.
    await pause(Math.max(1, visibilityTimeoutSeconds / 3) * 1000, signal);
  }
  await back;
}

/** Makes the batch visible to others at once; nothing of it was recorded, so the answer is always empty. */
async function release({ queue, log }: ConsumerParts, accepted: readonly Accepted[]): Promise<Settled[]> {
  const messages = accepted.map(({ message }) => message);
  const failures = await queue.changeVisibility(messages, 0).catch(allFailed(messages));
  // They become visible by themselves when their time is over.
  if (failures.length > 0) log.warn({ event: "release_failed", ...together(failures) });
  return [];
}

/** Copies the rejected to the dead-letter queue and answers those that are there; the others come back. */
async function bury({ queue, log }: ConsumerParts, rejected: readonly Rejected[]): Promise<Rejected[]> {
  if (rejected.length === 0) return [];
  const failures = await queue.deadLetter(rejected).catch(allFailed(rejected.map(({ message }) => message)));
  logEach(log, "dead_letter_failed", failures, rejected);
  const failed = new Set(failures.map(({ message }) => message));
  return rejected.filter(({ message }) => !failed.has(message));
}

/** A message that could not be deleted comes back and is a duplicate. */
export async function deleteAll({ queue, log }: ConsumerParts, settled: readonly (Settled | Rejected)[]) {
  const failures = await queue.delete(settled.map(({ message }) => message));
  logEach(log, "delete_failed", failures, settled);
}

/** A request that failed as a whole failed for each of its messages. */
const allFailed = (messages: readonly Message[]) => (error: unknown) =>
  messages.map((message): Failure => ({ message, reason: reasonOf(error) }));

function logEach(log: Log, event: string, failures: readonly Failure[], judged: readonly (Settled | Rejected)[]) {
  for (const { message, reason } of failures) {
    const one = judged.find((candidate) => candidate.message === message);
    log.warn({ event, message_id: message.id, order_id: one && idOf(one), reason });
  }
}

const idOf = (one: Settled | Rejected) => (one.outcome === "rejected" ? one.orderId : one.order.id);

/** Of messages that fail for one reason, which is rarely their own. */
const together = (failures: readonly Failure[]) => ({
  message_ids: failures.map(({ message }) => message.id),
  reason: failures[0]?.reason,
});

/** Counted orders, nearly all of them, are none. */
function noteExceptions(recent: Recent, settled: readonly Settled[], buried: readonly Rejected[]) {
  for (const one of settled) {
    if (one.recorded === "recorded" && one.outcome === "counted") continue;
    const { id: orderId, userId, cents } = one.order;
    if (one.recorded === "duplicate") recent.note("duplicate", one.message, { orderId, userId });
    else if (one.outcome === "corrected")
      recent.note("corrected", one.message, { orderId, userId, declared: one.declared, cents });
  }
  for (const { message, orderId, userId, reason, errors } of buried) {
    recent.note("rejected", message, { orderId, userId, reason, errors });
  }
}

function count(metrics: ConsumerMetrics, settled: readonly Settled[], buried: number) {
  const tally: Record<Outcome, number> = { counted: 0, corrected: 0, duplicate: 0, rejected: buried };
  const now = Date.now();
  for (const { outcome, recorded, message } of settled) {
    tally[recorded === "duplicate" ? "duplicate" : outcome] += 1;
    metrics.lagSeconds.observe(Math.max(0, now - message.sentAtMs) / 1000);
  }
  for (const [outcome, orders] of Object.entries(tally)) {
    if (orders > 0) metrics.orders.inc({ outcome }, orders);
  }
}
