/** The interface of the store and its types. Both implementations return the same results. */

/** A validated order. */
export interface Order {
  id: string;
  userId: string;
  /** The amount that the order is counted with, in integer cents. */
  cents: number;
  /** The date of the order in the time zone of the store, `YYYY-MM-DD`. */
  day: string;
}

export interface Totals {
  orders: number;
  /** Integer cents, exact, at most `MAX_TOTAL_CENTS`. */
  cents: number;
}

export const NO_ORDERS: Totals = { orders: 0, cents: 0 };

/** @returns the sum of two totals */
export const addTotals = (a: Totals, b: Totals): Totals => ({ orders: a.orders + b.orders, cents: a.cents + b.cents });

/**
 * The largest total of one order's items that validation accepts, in cents: 9,999,999,999.99. Up to this limit the sum of the
 * items, calculated in 1/10000, is exact, and one order uses only a small part of `MAX_TOTAL_CENTS`. No order is counted with
 * more: where `order_value` is one cent higher, the limit counts.
 */
export const MAX_ORDER_CENTS = 999_999_999_999;

/**
 * The limit of the overall total, in cents. Below 2^53 integer cents are exact, and below 2^46 currency units neighbouring
 * doubles are less than a cent apart, so the JSON number is exact as well. `record` rejects a batch that would exceed the limit.
 */
export const MAX_TOTAL_CENTS = 7_000_000_000_000_000;

/** The marker window if the retention of the queue is unknown: twice AWS's maximum of 14 days, plus a day for clock differences. */
export const LONGEST_WINDOW_SECONDS = (2 * 14 + 1) * 24 * 3600;

/** The maximum number of users that one read of a leaderboard returns. */
export const MAX_TOP = 1000;

/** Number of users, days or markers that are read at a time. Small, because orders wait while Redis reads: about a millisecond. */
export const PAGE_SIZE = 1_000;

export interface UserTotals extends Totals {
  userId: string;
}

/** Compares two users of a leaderboard: higher spend first, equal spend by user id in UTF-8 byte order. */
export function bySpend(a: UserTotals, b: UserTotals): number {
  return b.cents - a.cents || byBytes(a.userId, b.userId);
}

/** Compares in UTF-8 byte order without encoding, which would take ten seconds for a million users with equal spend. */
function byBytes(a: string, b: string): number {
  const shorter = Math.min(a.length, b.length);
  let at = 0;
  while (at < shorter && a.charCodeAt(at) === b.charCodeAt(at)) at++;
  return at === shorter ? a.length - b.length : sortKey(a.charCodeAt(at)) - sortKey(b.charCodeAt(at));
}

/** UTF-16 units sort like UTF-8 bytes, except surrogates: they encode characters above U+FFFF, which sort after all others. */
const sortKey = (unit: number) => (unit >= 0xd800 && unit < 0xe000 ? unit + 0x10000 : unit);

/** The possible outcomes of an order. consumer/outcomes.ts defines how each is logged, counted and kept. */
export const OUTCOMES = ["counted", "corrected", "duplicate", "rejected"] as const;
export type Outcome = (typeof OUTCOMES)[number];
/**
 * The outcomes whose orders are kept as recent orders: all but the normal case. An order with an implausible date, which was
 * counted or corrected, is kept in addition.
 */
export const RECENT_OUTCOMES = ["corrected", "rejected", "duplicate", "implausible_date"] as const;

/** Number of recent orders that are kept for each outcome. */
export const MAX_RECENT = 100;

/** A recent order with one of `RECENT_OUTCOMES`, for people who look for the cause. Not part of any total. */
export interface RecentOrder {
  outcome: (typeof RECENT_OUTCOMES)[number];
  /** When it was processed, ms since the epoch. */
  atMs: number;
  messageId: string;
  /** Both ids are absent if the body does not contain valid ones. */
  orderId?: string;
  userId?: string;
  /** Corrected orders only: the `order_value` as sent, and the cents that the order was counted with. */
  declared?: number;
  cents?: number;
  /** Rejected orders only. */
  reason?: string;
  errors?: readonly { path: string; message: string }[];
  /** Orders with an implausible date only: their day, `YYYY-MM-DD`. */
  day?: string;
  /** Trace id of the producer, 32 hexadecimal digits, if the message has one. */
  traceId?: string;
}

/**
 * The order history: what is kept by order id, for the marker window, so that it can be found when it is no longer among the
 * recent orders. At most `orders` of each outcome, 100,000 in all, and the latest `messages` of each order. Duplicates have a
 * limit of their own, so that a producer that sends a whole day again does not displace rejected orders.
 */
export const HISTORY_LIMITS = {
  corrected: { orders: 25_000, messages: 1 },
  rejected: { orders: 50_000, messages: 3 },
  duplicate: { orders: 25_000, messages: 1 },
} as const;
export type HistoryOutcome = keyof typeof HISTORY_LIMITS;
export const HISTORY_OUTCOMES = Object.keys(HISTORY_LIMITS) as HistoryOutcome[];

/** The messages with one order id and one outcome. */
export interface HistoryEntry {
  outcome: HistoryOutcome;
  orderId: string;
  /** Number of messages. */
  count: number;
  /** The last of them, at least one, the newest last. */
  latest: readonly RecentOrder[];
}

/** The history of one order id. An outcome is absent if it did not occur within the marker window. */
export type OrderHistory = { [outcome in HistoryOutcome]?: HistoryEntry };

/**
 * `duplicate`: the order id was counted before, in this batch or an earlier one. `refused`: the Redis key of the order's user
 * holds data of another program; nothing was written for this order.
 */
export type Recorded = "recorded" | "duplicate" | "refused";

/** Why a store is closed by `closeForCopy`. */
export const COPIED = "its orders are being copied to another store, or have been. Use that one";

/** The time zone of a store that has counted orders without one. */
export const DEFAULT_TIME_ZONE = "UTC";

/** @returns why a store that was begun with one time zone cannot be used with another */
export const otherTimeZone = (stored: string, wanted: string) =>
  `it was begun with TIME_ZONE=${stored}, and this program has TIME_ZONE=${wanted}. Set TIME_ZONE=${stored}, or use an empty store: the days of counted orders cannot be changed`;

/** A Redis key of this program holds data of another program. */
export class ForeignKeyError extends Error {}

export interface Store {
  /**
   * Counts the orders that were not counted before, in one atomic step. After a rejection either nothing was counted or, if only
   * the response was lost, everything: it is safe to call again.
   *
   * @returns one result per order, in the order of `orders`
   */
  record(orders: readonly Order[]): Promise<Recorded[]>;
  /** @returns the overall total */
  global(): Promise<Totals>;
  /** @returns the totals of a user, zeros without orders. Rejects with a `ForeignKeyError` for data of another program */
  user(userId: string): Promise<Totals>;
  /** @returns the totals of a user on a leaderboard, zeros without orders */
  userOn(leaderboard: string, userId: string): Promise<Totals>;
  /** @returns the first `n` (at most `MAX_TOP`) users of a leaderboard, sorted by `bySpend` */
  top(leaderboard: string, n: number): Promise<UserTotals[]>;
  /** @returns the total of each of the days (`YYYY-MM-DD`), zeros without orders */
  daily(days: readonly string[]): Promise<Totals[]>;
  /** @returns whether the order id was counted. An order counted before the marker window may already be forgotten */
  isCounted(orderId: string): Promise<boolean>;
  /** @returns the marker window: how long an order id is remembered at least, seconds */
  markerWindowSeconds(): Promise<number>;
  /** @returns the time zone of the days, an IANA name */
  timeZone(): Promise<string>;
  /** Adds recent orders, the newest last. The newest `MAX_RECENT` of each outcome are kept. */
  addRecent(orders: readonly RecentOrder[]): Promise<void>;
  /** @returns the latest `n` (at most `MAX_RECENT`) recent orders of an outcome, newest first */
  recent(outcome: RecentOrder["outcome"], n: number): Promise<RecentOrder[]>;
  /** Adds to the order history: messages that are not in it yet. */
  addHistory(entries: readonly HistoryEntry[]): Promise<void>;
  /** @returns the history of an order id, empty for most: orders that are counted as they were sent are not in it */
  history(orderId: string): Promise<OrderHistory>;
  /** @returns what an operator should change in the configuration of the store, one sentence each */
  configurationWarnings(): Promise<string[]>;
  /** @returns how many keys the server has evicted since it started; undefined if unknown */
  evictedKeys(): Promise<number | undefined>;
  /** Rejects with the reason if the store does not accept orders: unreachable, read-only, full, a permission or data missing. */
  check(): Promise<void>;
  /** Like `check`, but checks all stored data and takes longer the more there is. Called before the first order of a process. */
  checkThoroughly(): Promise<void>;
  close(): Promise<void>;
}

/** The store with access to all of its data, one page at a time, for the audit, the list of users and copies. */
export interface FullStore extends Store {
  /** @returns every day that has orders */
  days(): Promise<string[]>;
  /** @returns the name of every leaderboard */
  leaderboards(): Promise<string[]>;
  /** @returns every user once, in no particular order, with all-time totals */
  users(): AsyncIterable<UserTotals[]>;
  /** @returns every user of a leaderboard once */
  usersOn(leaderboard: string): AsyncIterable<UserTotals[]>;
  /**
   * @returns the user id of every key or row with all-time totals, including ids that are missing in the list of users. In Redis
   *   also of keys of other programs, and some more than once
   */
  storedUserIds(): AsyncIterable<string[]>;
  /** @returns every marker, as returned by `digestOf` */
  markers(): AsyncIterable<Uint8Array[]>;
  /** @returns the whole order history */
  wholeHistory(): AsyncIterable<HistoryEntry[]>;
  /** Writes the overall total where it is missing; never changes an existing value. @returns whether anything was written */
  restoreTotal(totals: Totals): Promise<boolean>;
  /** Closes the store for all processes: until `reopen`, `check` and `record` reject. */
  closeForCopy(): Promise<void>;
  reopen(): Promise<void>;
}

const digest = new Uint8Array(32);

/**
 * @returns the marker of an order id: the first 12 bytes of its SHA-256. With 96 bits, the probability that any two of ten
 *   billion ids have the same marker is 1 in 10^9 (birthday bound n²/2^97)
 */
export function digestOf(orderId: string): Uint8Array {
  Bun.SHA256.hash(orderId, digest);
  return digest.slice(0, 12);
}
