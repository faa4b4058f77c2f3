/** The words of the store: what it takes, what it answers. Both implementations keep the same numbers. */

/** An order that passed the judge, as it is to be counted. */
export interface Order {
  id: string;
  userId: string;
  /** What the order counts for, in integer cents. */
  cents: number;
  /** The UTC date of the order, `YYYY-MM-DD`. */
  day: string;
}

export interface Totals {
  orders: number;
  /** Integer cents, exact, at most `MAX_TOTAL_CENTS`. */
  cents: number;
}

/**
 * What a total may reach: below 2^46 currency units neighbouring doubles are less than a cent apart, so that
 * both integer cents and the JSON number are exact. `record` refuses a batch that would pass it.
 */
export const MAX_TOTAL_CENTS = 7_000_000_000_000_000;

/**
 * How long an order id is remembered at least, so that no copy SQS may still deliver is counted again: a message lives
 * for at most 14 days (AWS), a redrive from the dead-letter queue starts that once more, and a day is for clocks.
 */
export const MARKER_WINDOW_SECONDS = (2 * 14 + 1) * 24 * 3600;

/** The most users that one read of a board may ask for. */
export const MAX_TOP = 1000;

export interface UserTotals extends Totals {
  userId: string;
}

/** The order of a board: most spend first, ties by user id in UTF-8 byte order. */
export function bySpend(a: UserTotals, b: UserTotals): number {
  return b.cents - a.cents || byBytes(a.userId, b.userId);
}

/** UTF-8 byte order, without the bytes: a million users with the same spend took ten seconds to encode again and again. */
function byBytes(a: string, b: string): number {
  const least = Math.min(a.length, b.length);
  let at = 0;
  while (at < least && a.charCodeAt(at) === b.charCodeAt(at)) at++;
  return at === least ? a.length - b.length : rankOf(a.charCodeAt(at)) - rankOf(b.charCodeAt(at));
}

/** UTF-16 units have that order already, but for surrogates: they stand for what comes after all others. */
const rankOf = (unit: number) => (unit >= 0xd800 && unit < 0xe000 ? unit + 0x10000 : unit);

/** How many of the latest corrected, rejected and duplicate orders are kept to look at, each. */
export const MAX_RECENT = 100;

/** An order that was not simply counted, for people to look at. */
export interface RecentOrder {
  outcome: "corrected" | "rejected" | "duplicate";
  /** When it was settled, ms since the epoch. */
  atMs: number;
  messageId: string;
  /** Absent, as the next one, where the body holds none that is valid. */
  orderId?: string;
  userId?: string;
  /** Of a corrected order: its `order_value` as sent, and what it counts instead, in cents. */
  declared?: number;
  cents?: number;
  /** Of a rejected order. */
  reason?: string;
  errors?: readonly { path: string; message: string }[];
  /** Of the producer's trace, 32 hexadecimal digits, where the message carries one. */
  traceId?: string;
}

/** `duplicate`: the order id was counted before, in this batch or any earlier one. */
export type Recorded = "recorded" | "duplicate";

export interface Store {
  /**
   * Counts the orders not counted before and answers one word per order, in order. One atomic step: after a
   * rejection nothing, or (when only the answer was lost) everything, is counted, so it is safe to call again.
   */
  record(orders: readonly Order[]): Promise<Recorded[]>;
  global(): Promise<Totals>;
  /** Zeros for a user without orders. */
  user(userId: string): Promise<Totals>;
  /** The first `n` (at most `MAX_TOP`) of a board, as `bySpend` has them. */
  top(board: string, n: number): Promise<UserTotals[]>;
  /** One total per day asked for (`YYYY-MM-DD`), zeros included. */
  daily(days: readonly string[]): Promise<Totals[]>;
  /** Whether the order id was counted within the window (`MARKER_WINDOW_SECONDS`) for sure; perhaps an earlier one. */
  knows(orderId: string): Promise<boolean>;
  /** Keeps orders to look at, the newest last; of each outcome the newest `MAX_RECENT` stay. Not for accounts. */
  remember(orders: readonly RecentOrder[]): Promise<void>;
  /** The latest `n` (at most `MAX_RECENT`) of an outcome, the newest first. */
  recent(outcome: RecentOrder["outcome"], n: number): Promise<RecentOrder[]>;
  /** What an operator should change before trusting it, a sentence each. */
  advice(): Promise<string[]>;
  /** Rejects while the store cannot take orders: out of reach, read-only, out of memory or disk. */
  check(): Promise<void>;
  close(): Promise<void>;
}

/** The store with what an audit reads besides: everything there is, a thousand users at a time. */
export interface WholeStore extends Store {
  /** Every day that has orders. */
  days(): Promise<string[]>;
  /** Every board there is. */
  boards(): Promise<string[]>;
  /** Who is on the board, each once. Without a board: all users, some repeated. */
  userIds(board?: string): AsyncIterable<string[]>;
  /** What each of the users has on the board, zeros included. */
  places(board: string, userIds: readonly string[]): Promise<Totals[]>;
  /** Keeps the parts of a listing, in order, for `seconds`, so that whoever reads its pages later reads of one moment. */
  keepListing(id: string, parts: readonly string[], seconds: number): Promise<void>;
  /** One part of a listing; undefined when its time is over or there is no such part. */
  listingPart(id: string, index: number): Promise<string | undefined>;
}
