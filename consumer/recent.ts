import type { Log } from "../log.ts";
import type { Message } from "../queue/queue.ts";
import { traceOf } from "../queue/trace.ts";
import { MAX_RECENT, type RecentOrder, type Store } from "../store/store.ts";
import { createOutageLog } from "./outage-log.ts";
import type { StoreGate } from "./store-gate.ts";

type Outcome = RecentOrder["outcome"];
type Details = Omit<RecentOrder, "outcome" | "atMs" | "messageId" | "traceId">;

/** A rejected order is somebody's mistake; a corrected one may be; duplicates are SQS at work. */
const LEVELS = { rejected: "warn", corrected: "info", duplicate: "debug" } as const;

export type Recent = ReturnType<typeof createRecent>;

/** Tells of orders that were not simply counted: a line in the log, and a place in the store for a while. */
export function createRecent({ store, gate, log }: { store: Store; gate: StoreGate; log: Log }) {
  const outage = createOutageLog(log, { failed: "remember_failed", recovered: "remember_recovered" });
  const kept: Record<Outcome, RecentOrder[]> = { rejected: [], corrected: [], duplicate: [] };
  let sending = Promise.resolve();

  function note(outcome: Outcome, message: Message, details: Details) {
    const traceId = traceOf(message)?.traceId;
    const order = { outcome, atMs: Date.now(), messageId: message.id, ...details, ...(traceId && { traceId }) };
    kept[outcome].push(order);
    // The store keeps no more either: a flood of them costs no memory.
    if (kept[outcome].length > MAX_RECENT) kept[outcome].shift();
    if (log.isLevelEnabled(LEVELS[outcome])) log[LEVELS[outcome]](lineOf(order));
  }

  /** Hands what was noted to the store, unless that is away; never rejects. What the store does not take is lost. */
  async function flush() {
    await sending;
    if (gate.reason() !== undefined) return;
    const orders = Object.values(kept).flatMap((orders) => orders.splice(0));
    if (orders.length > 0) sending = send(orders);
    await sending;
  }

  async function send(orders: readonly RecentOrder[]) {
    try {
      await store.remember(orders);
      outage.succeeded();
    } catch (error) {
      outage.failed(error);
    }
  }

  return { note, flush };
}

/** pino leaves out what is undefined. */
function lineOf({ outcome, orderId, userId, messageId, declared, cents, reason, errors, traceId }: RecentOrder) {
  return {
    event: `order_${outcome}`,
    order_id: orderId,
    user_id: userId,
    message_id: messageId,
    declared,
    counted: cents === undefined ? undefined : cents / 100,
    reason,
    paths: errors?.map(({ path }) => path),
    trace_id: traceId,
  };
}
