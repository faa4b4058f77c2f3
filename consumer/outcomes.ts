import type { Log } from "../log.ts";
import { createOutageLog } from "../outage-log.ts";
import { type Message, originalIdOf } from "../queue/message.ts";
import { traceOf } from "../queue/trace-context.ts";
import { MAX_RECENT, type Outcome, type RecentOrder, type Store } from "../store/store.ts";
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

export type Outcomes = ReturnType<typeof createOutcomes>;

/**
 * Counts and logs the outcomes of one worker, and sends the recent orders to the store.
 *
 * @returns `report`, to be called with every batch, and `flush`, to be called regularly
 */
export function createOutcomes(deps: {
  store: Pick<Store, "addRecent">;
  availability: Pick<StoreAvailability, "reason">;
  metrics: ConsumerMetrics;
  log: Log;
}) {
  const { store, availability, metrics, log } = deps;
  const outage = createOutageLog(log, { failed: "remember_failed", recovered: "remember_recovered" });
  const checkCurrency = createCurrencyCheck(log);
  const unsent = new Map<RecentOrder["outcome"], RecentOrder[]>();
  let sending = Promise.resolve();

  function report(batch: readonly Processed[]) {
    const now = Date.now();
    for (const [outcome, orders] of Map.groupBy(batch, ({ outcome }) => outcome))
      metrics.orders.inc({ outcome }, orders.length);
    for (const [envelope = "none", orders] of Map.groupBy(batch, ({ envelope }) => envelope))
      metrics.envelopes.inc({ envelope }, orders.length);
    for (const { message, outcome, envelope, notes, ...details } of batch) {
      if (outcome !== "rejected") metrics.lagSeconds.observe(Math.max(0, now - message.sentAtMs) / 1000);
      if (notes?.currency !== undefined) checkCurrency(notes.currency, message, details.orderId);
      const implausibleDate = notes?.implausibleDate;
      if (outcome === "counted" && !implausibleDate) continue;
      const order = { atMs: now, messageId: originalIdOf(message), ...details, ...traceIdOf(message) };
      if (outcome !== "counted") keep({ outcome, ...order });
      if (!implausibleDate) continue;
      metrics.implausibleDates.inc({ direction: implausibleDate.direction });
      keep({ outcome: "implausible_date", ...order, day: implausibleDate.day });
    }
  }

  function keep(order: RecentOrder) {
    const level = LEVELS[order.outcome];
    if (log.isLevelEnabled(level)) log[level](logLine(order));
    const orders = unsent.get(order.outcome) ?? [];
    unsent.set(order.outcome, orders);
    orders.push(order);
    // The store does not keep more either, so many duplicates do not use more memory.
    if (orders.length > MAX_RECENT) orders.shift();
  }

  /** Sends recent orders to the store unless it is unavailable. Never rejects: if the store fails, they are dropped. */
  async function flush() {
    await sending;
    if (availability.reason() !== undefined) return;
    const orders = [...unsent.values()].flatMap((orders) => orders.splice(0));
    if (orders.length > 0) sending = store.addRecent(orders).then(() => outage.succeeded(), outage.failed);
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
