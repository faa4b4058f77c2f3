import { Redis, type Result } from "ioredis";
import { boardsOf } from "./periods.ts";
import recordScript from "./record.lua" with { type: "text" };
import { adviseOn } from "./redis-advice.ts";
import { MAX_TOTAL_CENTS, type Order, type Recorded, type Totals, type UserTotals, type WholeStore } from "./store.ts";
import topScript from "./top.lua" with { type: "text" };

/** A healthy Redis answers in milliseconds; a command without an answer for five seconds meets a hung server. */
const COMMAND_TIMEOUT_MS = 5_000;
/** Counting should resume within two seconds of an outage's end, so the pauses between connects stay below one. */
const MAX_RECONNECT_PAUSE_MS = 500;
const GLOBAL_KEY = "global:stats";
/** The store's own keys share a prefix of their own: a shop's Redis holds other things too. */
const DAYS_KEY = "orders:days";
const userKey = (userId: string) => `user:${userId}`;
const boardKey = (board: string) => `orders:board:${board}`;
const countsKey = (board: string) => `${boardKey(board)}:orders`;
/** Users that an audit reads at a time: a millisecond of Redis, so that orders do not wait longer for it. */
const PAGE = 1_000;

declare module "ioredis" {
  interface RedisCommander<Context> {
    recordOrders(global: string, ...args: (string | number)[]): Result<number[], Context>;
    topUsers(board: string, orders: string, n: number): Result<string[], Context>;
  }
}

/**
 * The store on a single Redis: `user:{user_id}` and `global:stats` for others to read, the rest its own.
 * Rejects with one sentence when Redis cannot be reached now; later outages reject the calls made meanwhile,
 * at once, and end by themselves.
 */
export async function openRedisStore(options: { url: string; markerTtlSeconds: number }): Promise<WholeStore> {
  const redis = await connect(options.url);

  async function record(orders: readonly Order[]): Promise<Recorded[]> {
    if (orders.length === 0) return [];
    const days = [...new Set(orders.map(({ day }) => day))];
    const rows = orders.flatMap(({ id, userId, cents, day }) => [id, userId, cents, days.indexOf(day) + 1]);
    const args = [options.markerTtlSeconds, MAX_TOTAL_CENTS, days.length, ...days.flatMap(boardsOf), ...rows];
    const answer = await redis.recordOrders(GLOBAL_KEY, "", ...args);
    if (answer.length !== orders.length) throw new Error(`Redis answered ${answer.length} of ${orders.length} orders`);
    return answer.map(toRecorded);
  }

  const global = async () => toTotals(await redis.hmget(GLOBAL_KEY, "total_orders", "total_revenue"));

  const user = async (userId: string) => toTotals(await redis.hmget(userKey(userId), "order_count", "total_spend"));

  async function top(board: string, n: number): Promise<UserTotals[]> {
    const rows = await redis.topUsers(boardKey(board), countsKey(board), n);
    return Array.from({ length: rows.length / 3 }, (_, index) => {
      const [userId = "", negativeCents, orders] = rows.slice(index * 3, index * 3 + 3);
      return { userId, orders: Number(orders), cents: Math.abs(Number(negativeCents)) };
    });
  }

  async function daily(days: readonly string[]): Promise<Totals[]> {
    if (days.length === 0) return [];
    const values = await redis.hmget(DAYS_KEY, ...days.flatMap((day) => [`d:${day}:orders`, `d:${day}:cents`]));
    return days.map((_, index) => ({
      orders: Number(values[index * 2] ?? 0),
      cents: Number(values[index * 2 + 1] ?? 0),
    }));
  }

  // The record script without orders writes one key: a replica, a full memory, a failed disk and a user without
  // the right to run scripts all answer PING.
  async function check() {
    try {
      await redis.recordOrders(GLOBAL_KEY, "", options.markerTtlSeconds, MAX_TOTAL_CENTS, 0);
    } catch (error) {
      throw new Error(`Redis takes no orders: ${reasonOf(error)}`, { cause: error });
    }
  }

  const advice = () => adviseOn(redis);

  const close = async () => redis.disconnect();

  const days = async () => [
    ...new Set((await redis.hkeys(DAYS_KEY)).map((field) => field.replace(/^d:|:(orders|cents)$/g, ""))),
  ];

  async function boards(): Promise<Map<string, number>> {
    const boards = new Map<string, number>();
    for await (const names of namesLike(boardKey))
      for (const name of names.map((name) => name.replace(/:orders$/, "")))
        if (!boards.has(name)) boards.set(name, await redis.hlen(countsKey(name)));
    return boards;
  }

  async function* userIds(board?: string) {
    if (board === undefined) return yield* namesLike(userKey);
    for (let at = 0, size = PAGE; size === PAGE; at += PAGE) {
      const page = await redis.zrange(boardKey(board), at, `${at + PAGE - 1}`);
      size = page.length;
      yield page;
    }
  }

  async function places(board: string, userIds: readonly string[]): Promise<Totals[]> {
    if (userIds.length === 0) return [];
    const reads = [redis.zmscore(boardKey(board), ...userIds), redis.hmget(countsKey(board), ...userIds)];
    const [scores = [], counts = []] = await Promise.all(reads);
    return scores.map((score, index) => ({
      orders: score === null ? 0 : Number(counts[index]),
      cents: -Number(score),
    }));
  }

  /** The names that there are keys for: SCAN misses none and may repeat some. */
  async function* namesLike(keyOf: (name: string) => string): AsyncGenerator<string[]> {
    const pages: AsyncIterable<string[]> = redis.scanStream({ match: keyOf("*"), count: PAGE });
    for await (const keys of pages) yield keys.map((key) => key.slice(keyOf("").length));
  }

  return { record, global, user, top, daily, advice, check, close, days, boards, userIds, places };
}

async function connect(url: string): Promise<Redis> {
  const redis = new Redis(url, {
    lazyConnect: true,
    connectTimeout: COMMAND_TIMEOUT_MS,
    commandTimeout: COMMAND_TIMEOUT_MS,
    // A connection that has died without a word (NAT, failover) is replaced, not only its commands given up.
    socketTimeout: COMMAND_TIMEOUT_MS,
    // While Redis is away a call fails at once: the caller holds its messages, Redis's client should not.
    enableOfflineQueue: false,
    enableAutoPipelining: true,
    retryStrategy: (attempt) => Math.min(attempt * 50, MAX_RECONNECT_PAUSE_MS),
    // After a failover the old master answers READONLY for as long as the connection to it lives.
    reconnectOnError: (error) => error.message.startsWith("READONLY"),
  });
  redis.defineCommand("recordOrders", { lua: recordScript, numberOfKeys: 1 });
  redis.defineCommand("topUsers", { lua: topScript, numberOfKeys: 2, readOnly: true });
  let reason: unknown;
  redis.on("error", (error) => {
    reason = error;
  });
  try {
    await redis.connect();
    await redis.ping();
    return redis;
  } catch (error) {
    redis.disconnect();
    throw new Error(`Cannot reach Redis at ${withoutPassword(url)}: ${reasonOf(reason ?? error)}`, {
      cause: error,
    });
  }
}

/** What an operator can act on, where ioredis speaks of its own insides. */
function reasonOf(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error);
  if (/ECONNREFUSED|Failed to connect/.test(message)) return "connection refused. Start it, or check REDIS_URL";
  if (/isn't writeable|Connection is closed|max retries/i.test(message)) return "not connected";
  if (/Command timed out|Socket timeout/.test(message)) return `no answer within ${COMMAND_TIMEOUT_MS / 1000} s`;
  return message;
}

function withoutPassword(url: string): string {
  const shown = new URL(url);
  if (shown.password) shown.password = "…";
  return shown.href;
}

/** Anything but these two words must not let a message be deleted. */
function toRecorded(counted: number): Recorded {
  if (counted === 1) return "recorded";
  if (counted === 0) return "duplicate";
  throw new Error(`Redis answered ${counted} for an order`);
}

/** Count and decimal text, as the two hashes hold them; both absent for a key that is not there. */
function toTotals([orders, amount]: (string | null)[]): Totals {
  // Digit by digit: a product with 100 would round amounts near the limit.
  const [whole, fraction = ""] = (amount ?? "0").split(".");
  return { orders: Number(orders ?? 0), cents: Number(whole) * 100 + Number(fraction.padEnd(2, "0")) };
}
