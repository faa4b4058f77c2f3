import type { Log } from "../log.ts";
import type { DeadLetter, Message, Queue } from "../queue/queue.ts";
import type { Order, Recorded, Store } from "../store/store.ts";
import type { ConsumerMetrics, Outcome } from "./metrics.ts";
import { type Judged, judge, type OnValueMismatch } from "./order.ts";
import { pause } from "./pause.ts";
import type { StoreGate } from "./store-gate.ts";

export interface ConsumerParts {
  queue: Queue;
  store: Store;
  /** The store's `record`, or one that joins batches before it. */
  record: Store["record"];
  gate: StoreGate;
  metrics: ConsumerMetrics;
  log: Log;
  onValueMismatch: OnValueMismatch;
}

interface Accepted {
  message: Message;
  outcome: "counted" | "corrected";
  order: Order;
}

/** A store that takes writes but fails this often on one batch refuses something in that batch. */
const MAX_REFUSALS = 3;
/** Between them: a connection that broke in the middle of the answer is no refusal. */
const REFUSAL_PAUSE_MS = 200;

/**
 * Judges and records one batch of messages, and answers those that may be deleted. Nothing leaves the queue before the
 * store has answered, so that a death on any line leads to a redelivery, which the marker turns into a duplicate.
 */
export async function settle(
  parts: ConsumerParts,
  messages: readonly Message[],
  stopping: AbortSignal,
): Promise<Message[]> {
  const { accepted, rejected } = judgeAll(messages, parts.onValueMismatch);
  const [recorded, buried] = await Promise.all([
    recordOrHold(parts, accepted, messages, stopping),
    bury(parts, rejected),
  ]);
  count(parts.metrics, recorded, buried.length);
  return [...recorded.map(({ message }) => message), ...buried];
}

function judgeAll(messages: readonly Message[], onValueMismatch: OnValueMismatch) {
  const accepted: Accepted[] = [];
  const rejected: DeadLetter[] = [];
  for (const message of messages) {
    const judged: Judged = judge(message.body, onValueMismatch);
    if (judged.outcome === "rejected") rejected.push({ message, reason: judged.reason, errors: judged.errors });
    else accepted.push({ message, outcome: judged.outcome, order: judged.order });
  }
  return { accepted, rejected };
}

type Settled = Accepted & { recorded: Recorded };

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
    const failures = await queue
      .changeVisibility(held, visibilityTimeoutSeconds)
      .catch((error) => [{ reason: `${error}` }]);
    // Once a hold: what is visible again is delivered again, and a duplicate in the end.
    if (failures.length > 0 && !failed)
      log.warn({ event: "hold_failed", messages: held.length, reason: failures[0]?.reason });
    failed ||= failures.length > 0;
    // Three tries before the time is over.
    await pause(Math.max(1, visibilityTimeoutSeconds / 3) * 1000, signal);
  }
  await back;
}

/** Makes the batch visible to others at once; nothing of it was recorded, so the answer is always empty. */
async function release({ queue, log }: ConsumerParts, accepted: readonly Accepted[]): Promise<Settled[]> {
  try {
    await queue.changeVisibility(
      accepted.map(({ message }) => message),
      0,
    );
  } catch (error) {
    // They become visible by themselves when their time is over.
    log.warn({ event: "release_failed", messages: accepted.length, error });
  }
  return [];
}

/** Copies the rejected to the dead-letter queue and answers those that are there; the others come back. */
async function bury({ queue, log }: ConsumerParts, rejected: readonly DeadLetter[]): Promise<Message[]> {
  if (rejected.length === 0) return [];
  try {
    const failures = await queue.deadLetter(rejected);
    for (const { message, reason } of failures)
      log.warn({ event: "dead_letter_failed", message_id: message.id, reason });
    const failed = new Set(failures.map(({ message }) => message));
    for (const { message, reason, errors } of rejected) {
      if (!failed.has(message))
        log.debug({ event: "order_rejected", message_id: message.id, reason, paths: errors.map(({ path }) => path) });
    }
    return rejected.map(({ message }) => message).filter((message) => !failed.has(message));
  } catch (error) {
    log.warn({ event: "dead_letter_failed", messages: rejected.length, error });
    return [];
  }
}

/** A message that could not be deleted comes back and is a duplicate. */
export async function deleteAll({ queue, log }: ConsumerParts, messages: readonly Message[]): Promise<void> {
  for (const { message, reason } of await queue.delete(messages)) {
    log.warn({ event: "delete_failed", message_id: message.id, reason });
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
