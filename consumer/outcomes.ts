import type { Log } from "../log.ts";
import { createOutageLog } from "../outage-log.ts";
import { type Message, originalIdOf } from "../queue/message.ts";
import { traceOf } from "../queue/trace-context.ts";
import {
  HISTORY_LIMITS,
  type HistoryEntry,
  type HistoryOutcome,
  MAX_RECENT,
  type Outcome,
  type RecentOrder,
  type Store,
} from "../store/store.ts";
import type { Envelope } from "./envelope.ts";
import type { ConsumerMetrics } from "./metrics.ts";
import type { Notes } from "./order.ts";
import type { StoreAvailability } from "./store-availability.ts";

/** A message that may be deleted, and the outcome of its order. The other fields are those of a recent order. */
export interface Processed extends Omit<RecentOrder, "outcome" | "atMs" | "messageId" | "traceId" | "day"> {
  message: Message;
  outcome: Outcome;
  envelope?: Envelope | undefined;
  notes?: Notes | undefined;
}

/**
 * Log level of each outcome. Orders with a level are also kept as recent orders; `counted` is the normal case and is not. A
 * rejected order needs a fix in the producer, a corrected one may need one, and duplicates are normal for SQS. An order with an
 * implausible date has this in addition to its outcome.
 */
const LEVELS = {
  counted: undefined,
  corrected: "info",
  duplicate: "debug",
  rejected: "warn",
  implausible_date: "warn",
} as const satisfies Record<Outcome | RecentOrder["outcome"], "debug" | "info" | "warn" | undefined>;

/**
 * Number of waiting entries of the order history up to which one with this outcome is added. Between two flushes there are fewer
 * rejected orders, because each is copied to the dead-letter queue. Corrected orders and duplicates may be as many as all orders,
 * and an entry costs Redis half as much as an order: then only some are kept.
 */
const MAX_UNSENT = { corrected: 2_000, rejected: 5_000, duplicate: 1_000 };
/** Errors of a rejected order that its history keeps, for the memory of the store. The first few are enough to fix the producer. */
const MAX_HISTORY_ERRORS = 5;

export type Outcomes = ReturnType<typeof createOutcomes>;

/**
 * Counts and logs the outcomes of one worker, and sends the recent orders and the order history to the store.
 *
 * @returns `report`, to be called with every batch, and `flush`, to be called regularly
 */
export function createOutcomes(deps: {
  store: Pick<Store, "addRecent" | "addHistory">;
  availability: Pick<StoreAvailability, "reason">;
  metrics: ConsumerMetrics;
  log: Log;
}) {
  const { store, availability, metrics, log } = deps;
  const outage = createOutageLog(log, { failed: "remember_failed", recovered: "remember_recovered" });
  const checkCurrency = createCurrencyCheck(log);
  const unsent = new Map<RecentOrder["outcome"], RecentOrder[]>();
  const unsentHistory = new Map<string, HistoryEntry>();
  let sending = Promise.resolve();

  function report(batch: readonly Processed[]) {
    const now = Date.now();
    for (const [outcome, orders] of Map.groupBy(batch, ({ outcome }) => outcome))
      metrics.orders.inc({ outcome }, orders.length);
    for (const [envelope = "none", orders] of Map.groupBy(batch, ({ envelope }) => envelope))
      metrics.envelopes.inc({ envelope }, orders.length);
    for (const processed of batch) {
      const { message, outcome, notes } = processed;
      if (outcome !== "rejected") metrics.lagSeconds.observe(Math.max(0, now - message.sentAtMs) / 1000);
      if (outcome !== "counted" || notes) reportUnusual(processed, now);
    }
  }

  /** Logs and keeps what is unusual: an order that is not simply counted, another currency, an implausible date. */
  function reportUnusual({ message, outcome, envelope, notes, ...details }: Processed, atMs: number) {
    if (notes?.currency !== undefined) checkCurrency(notes.currency, message, details.orderId);
    const implausibleDate = notes?.implausibleDate;
    if (outcome === "counted" && !implausibleDate) return;
    const order = { atMs, messageId: originalIdOf(message), ...details, ...traceIdOf(message) };
    if (outcome !== "counted") keep({ outcome, ...order });
    if (!implausibleDate) return;
    metrics.implausibleDates.inc({ direction: implausibleDate.direction });
    keep({ outcome: "implausible_date", ...order, day: implausibleDate.day });
  }

  function keep(order: RecentOrder) {
    const level = LEVELS[order.outcome];
    if (log.isLevelEnabled(level)) log[level](logLine(order));
    const orders = unsent.get(order.outcome) ?? [];
    unsent.set(order.outcome, orders);
    orders.push(order);
    // The store does not keep more either, so many duplicates do not use more memory.
    if (orders.length > MAX_RECENT) orders.shift();
    if (order.outcome !== "implausible_date") addToHistory(order.outcome, order);
  }

  /** All messages with the same order id and outcome are one entry, so that many duplicates are counted in little memory. */
  function addToHistory(outcome: HistoryOutcome, { errors, ...order }: RecentOrder) {
    const { orderId } = order;
    if (orderId === undefined) return;
    const key = `${outcome} ${orderId}`;
    const { count, latest } = unsentHistory.get(key) ?? { count: 0, latest: [] };
    if (count === 0 && unsentHistory.size >= MAX_UNSENT[outcome]) return;
    const kept = { ...order, ...(errors && { errors: errors.slice(0, MAX_HISTORY_ERRORS) }) };
    const messages = [...latest, kept].slice(-HISTORY_LIMITS[outcome].messages);
    unsentHistory.set(key, { outcome, orderId, count: count + 1, latest: messages });
  }

  /** Sends recent orders and history to the store unless it is unavailable. Never rejects: if the store fails, they are dropped. */
  async function flush() {
    await sending;
    if (availability.reason() !== undefined) return;
    const orders = [...unsent.values()].flatMap((orders) => orders.splice(0));
    const history = [...unsentHistory.values()];
    unsentHistory.clear();
    if (orders.length > 0)
      sending = Promise.all([store.addRecent(orders), store.addHistory(history)]).then(
        () => outage.succeeded(),
        outage.failed,
      );
    await sending;
  }

  return { report, flush };
}

function traceIdOf(message: Message) {
  const traceId = traceOf(message)?.traceId;
  return traceId && { traceId };
}

/** Amounts are added up whatever their currency. Logs the first order whose currency differs from that of the first order. */
function createCurrencyCheck(log: Log) {
  let first: string | undefined;
  let logged = false;
  return (currency: string, message: Message, order_id: string | undefined) => {
    first ??= currency;
    if (logged || currency === first) return;
    logged = true;
    const texts = { currency: currency.slice(0, 20), first: first.slice(0, 20) };
    log.warn({ event: "currency_differs", order_id, message_id: originalIdOf(message), ...texts });
  };
}

/** pino omits fields that are undefined. */
function logLine({ outcome, orderId, userId, messageId, declared, cents, reason, errors, day, traceId }: RecentOrder) {
  return {
    event: `order_${outcome}`,
    order_id: orderId,
    user_id: userId,
    message_id: messageId,
    declared,
    counted: cents === undefined ? undefined : cents / 100,
    reason,
    paths: errors?.map(({ path }) => path),
    date: day,
    trace_id: traceId,
  };
}
