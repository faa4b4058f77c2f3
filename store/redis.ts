import { Redis, type Result } from "ioredis";
import { boardsOf } from "./periods.ts";
import recordScript from "./record.lua" with { type: "text" };
import { MAX_TOTAL_CENTS, type Order, type Recorded, type Store, type Totals, type UserTotals } from "./store.ts";
import topScript from "./top.lua" with { type: "text" };

/** A healthy Redis answers in milliseconds; a command without an answer for five seconds meets a hung server. */
const COMMAND_TIMEOUT_MS = 5_000;
/** Counting should resume within two seconds of an outage's end, so the pauses between connects stay below one. */
const MAX_RECONNECT_PAUSE_MS = 500;
const GLOBAL_KEY = "global:stats";
const userKey = (userId: string) => `user:${userId}`;

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
export async function openRedisStore(options: { url: string; markerTtlSeconds: number }): Promise<Store> {
  const redis = await connect(options.url);

  async function record(orders: readonly Order[]): Promise<Recorded[]> {
    if (orders.length === 0) return [];
    const days = [...new Set(orders.map(({ day }) => day))];
    const rows = orders.flatMap(({ id, userId, cents, day }) => [id, userId, cents, days.indexOf(day) + 1]);
    const args = [options.markerTtlSeconds, MAX_TOTAL_CENTS, days.length, ...days.flatMap(boardsOf), ...rows];
    const answer = await redis.recordOrders(GLOBAL_KEY, "", ...args);
    return answer.map((counted) => (counted === 1 ? "recorded" : "duplicate"));
  }

  const global = async () => toTotals(await redis.hmget(GLOBAL_KEY, "total_orders", "total_revenue"));

  const user = async (userId: string) => toTotals(await redis.hmget(userKey(userId), "order_count", "total_spend"));

  async function top(board: string, n: number): Promise<UserTotals[]> {
    const rows = await redis.topUsers(`board:${board}`, `board:${board}:orders`, n);
    return Array.from({ length: rows.length / 3 }, (_, index) => {
      const [userId = "", negativeCents, orders] = rows.slice(index * 3, index * 3 + 3);
      return { userId, orders: Number(orders), cents: Math.abs(Number(negativeCents)) };
    });
  }

  async function daily(days: readonly string[]): Promise<Totals[]> {
    if (days.length === 0) return [];
    const values = await redis.hmget("days", ...days.flatMap((day) => [`d:${day}:orders`, `d:${day}:cents`]));
    return days.map((_, index) => ({
      orders: Number(values[index * 2] ?? 0),
      cents: Number(values[index * 2 + 1] ?? 0),
    }));
  }

  // A write: a replica, a full memory and a failed disk all answer PING.
  const check = async () => void (await redis.set("check", "", "EX", 60));

  const close = async () => redis.disconnect();

  return { record, global, user, top, daily, check, close };
}

async function connect(url: string): Promise<Redis> {
  const redis = new Redis(url, {
    lazyConnect: true,
    connectTimeout: COMMAND_TIMEOUT_MS,
    commandTimeout: COMMAND_TIMEOUT_MS,
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

function reasonOf(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error);
  return /ECONNREFUSED|Failed to connect/.test(message) ? "connection refused. Start it, or check REDIS_URL" : message;
}

function withoutPassword(url: string): string {
  const shown = new URL(url);
  if (shown.password) shown.password = "…";
  return shown.href;
}

/** Count and decimal text, as the two hashes hold them; both absent for a key that is not there. */
function toTotals([orders, amount]: (string | null)[]): Totals {
  // Digit by digit: a product with 100 would round amounts near the limit.
  const [whole, fraction = ""] = (amount ?? "0").split(".");
  return { orders: Number(orders ?? 0), cents: Number(whole) * 100 + Number(fraction.padEnd(2, "0")) };
}
