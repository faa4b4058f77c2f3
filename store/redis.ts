import calculateSlot from "cluster-key-slot";
import { Cluster, type Redis, type Result } from "ioredis";
import { createBatchReads } from "./batch-reads.ts";
import { todayIn } from "./periods.ts";
import { toLines, toRecent } from "./recent-lines.ts";
import { type Connection, connectRedis, mastersOf, type RedisAddress, redisWarnings } from "./redis-connection.ts";
import { createFullAccess, readGenerations } from "./redis-full-access.ts";
import { createRedisHistory } from "./redis-history.ts";
import { hashOf, type RedisKeys, redisKeys } from "./redis-keys.ts";
import { createRecorder } from "./redis-record.ts";
import { checkType, parseAmounts, parseTotals, parseUserTotals, typeError } from "./redis-values.ts";
import {
  bySpend,
  DEFAULT_TIME_ZONE,
  digestOf,
  type FullStore,
  LONGEST_WINDOW_SECONDS,
  MAX_RECENT,
  MAX_TOP,
  otherTimeZone,
  type RecentOrder,
  type Totals,
  type UserTotals,
} from "./store.ts";
import topScript from "./top.lua" with { type: "text" };
import userTotalsScript from "./user-totals.lua" with { type: "text" };
import usersScript from "./users.lua" with { type: "text" };

/** Days that are checked at a time. It keeps Redis busy for some milliseconds. */
const DAYS_CHECKED_AT_ONCE = 200;

declare module "ioredis" {
  interface RedisCommander<Context> {
    usersPage(users: string, userPrefix: string, from: number, to: number): Result<string[], Context>;
    userTotals(count: number, ...userKeys: string[]): Result<(string | null | Error)[], Context>;
    topUsers(board: string, top: string, n: number, maxUnsorted: number): Result<[number, string[]], Context>;
  }
}

/** @returns the prefix of all keys. In a cluster it is a hash tag: all keys are in one slot, so that one script can change them */
export function prefixOf(redis: Connection, keyPrefix: string | undefined): string {
  if (redis instanceof Cluster) return `{${keyPrefix ?? "orders"}}`;
  return keyPrefix ? `${keyPrefix}:` : "";
}

/**
 * Opens the store on a single Redis or a Redis Cluster. Calls reject at once while Redis is unavailable.
 *
 * @param windowSeconds how long an order id must be remembered. If the store was opened with a longer time before, that applies
 * @param timeZone as in `StoreAddress`
 * @throws an Error whose message an operator can act on if Redis cannot be reached
 */
export async function openRedisStore(
  address: RedisAddress,
  windowSeconds = LONGEST_WINDOW_SECONDS,
  timeZone?: string,
): Promise<FullStore> {
  const redis = await connectRedis(address);
  redis.defineCommand("usersPage", { lua: usersScript, numberOfKeys: 1, readOnly: true });
  redis.defineCommand("userTotals", { lua: userTotalsScript, readOnly: true });
  redis.defineCommand("topUsers", { lua: topScript, numberOfKeys: 2, readOnly: true });
  const keys = redisKeys(prefixOf(redis, address.keyPrefix));
  if (timeZone !== undefined) await keepTimeZone(redis, keys, timeZone);
  const { waitReplicas = 0 } = address;
  const countedZone = timeZone ?? DEFAULT_TIME_ZONE;
  const { record, checkDays } = createRecorder({ redis, keys, windowSeconds, timeZone: countedZone, waitReplicas });
  const fullAccess = createFullAccess(redis, keys);

  const check = () => checkDays([todayIn(countedZone)]);

  async function checkThoroughly() {
    await check();
    const all = await fullAccess.days();
    for (let at = 0; at < all.length; at += DAYS_CHECKED_AT_ONCE)
      await checkDays(all.slice(at, at + DAYS_CHECKED_AT_ONCE));
  }

  async function global(): Promise<Totals> {
    const read = () => checkType(keys.global, redis.hmget(keys.global, "total_orders", "total_revenue"));
    const amounts = await read();
    // Zero would be wrong where orders are counted; record.lua refuses orders for the same reason.
    if (!amounts.includes(null) || !(await redis.hexists(keys.store, "generations"))) return parseAmounts(amounts);
    // The first order may have been recorded since the first read.
    const again = await read();
    if (!again.includes(null)) return parseAmounts(again);
    throw new Error(`${keys.global} is lost: \`bun scripts/audit.ts --repair\` restores it from the days`);
  }

  const user = createBatchReads(async (userIds) => {
    const userKeys = userIds.map(keys.user);
    const replies = await redis.userTotals(userKeys.length, ...userKeys);
    return replies.map((reply, index) =>
      reply instanceof Error ? typeError(`${userKeys[index]}`, reply) : parseAmounts(reply?.split(" ") ?? [null, null]),
    );
  });

  async function userOn(leaderboard: string, userId: string): Promise<Totals> {
    const board = keys.board(leaderboard);
    return parseTotals(await checkType(board, redis.hget(board, userId)));
  }

  async function top(leaderboard: string, n: number): Promise<UserTotals[]> {
    const [board, first] = [keys.board(leaderboard), keys.top(leaderboard)];
    const [sorted, fields] = await checkType(`${board} or ${first}`, redis.topUsers(board, first, n, MAX_TOP));
    const users = parseUserTotals(fields);
    return sorted ? users : users.sort(bySpend).slice(0, n);
  }

  async function daily(days: readonly string[]): Promise<Totals[]> {
    if (days.length === 0) return [];
    const totals = await checkType(keys.days, redis.hmget(keys.days, ...days.map((day) => `d:${day}`)));
    return totals.map(parseTotals);
  }

  async function isCounted(orderId: string): Promise<boolean> {
    const marker = Buffer.from(digestOf(orderId));
    const found = (await readGenerations(redis, keys)).map(({ number, hashes }) =>
      redis.hexists(keys.markers(number, hashOf(marker, hashes)), marker),
    );
    return (await Promise.all(found)).includes(1);
  }

  const markerWindowSeconds = async () =>
    Math.max(windowSeconds, Number((await redis.hget(keys.store, "window_seconds")) ?? 0));

  async function addRecent(orders: readonly RecentOrder[]) {
    const writes = toLines(orders).flatMap(([outcome, lines]) => [
      redis.lpush(keys.recent(outcome), ...lines),
      redis.ltrim(keys.recent(outcome), 0, MAX_RECENT - 1),
    ]);
    await Promise.all<unknown>(writes);
  }
  const recent = async (outcome: RecentOrder["outcome"], n: number) =>
    toRecent(outcome, await redis.lrange(keys.recent(outcome), 0, MAX_RECENT - 1)).slice(0, n);

  const configurationWarnings = async () => [
    ...new Set((await Promise.all(mastersOf(redis).map(redisWarnings))).flat()),
  ];

  async function evictedKeys(): Promise<number | undefined> {
    const info = await masterOf(redis, keys.global)
      ?.info("stats")
      .catch(() => "");
    const count = /^evicted_keys:(\d+)/m.exec(info ?? "")?.[1];
    return count === undefined ? undefined : Number(count);
  }

  const close = async () => redis.disconnect();
  return {
    ...{ record, check, checkThoroughly, close, configurationWarnings, evictedKeys, markerWindowSeconds },
    timeZone: async () => (await readTimeZone(redis, keys)) ?? DEFAULT_TIME_ZONE,
    ...{ global, user, userOn, top, daily, isCounted, addRecent, recent },
    ...createRedisHistory(redis, keys, async () => Date.now() - (await markerWindowSeconds()) * 1000),
    ...fullAccess,
  };
}

/** @returns the time zone that the store was begun with; undefined for an empty store that was not */
async function readTimeZone(redis: Connection, keys: RedisKeys): Promise<string | undefined> {
  const [timeZone, generations] = await redis.hmget(keys.store, "time_zone", "generations");
  return timeZone ?? (generations ? DEFAULT_TIME_ZONE : undefined);
}

/** Begins an empty store with a time zone. @returns the time zone that the store was begun with, now or before */
export async function beginTimeZone(redis: Connection, keys: RedisKeys, timeZone: string): Promise<string> {
  // Of two programs that open an empty store at once, the first one decides.
  if (!(await readTimeZone(redis, keys))) await redis.hsetnx(keys.store, "time_zone", timeZone);
  return (await readTimeZone(redis, keys)) ?? timeZone;
}

/** Begins an empty store with the time zone. @throws an Error if the store was begun with another one */
async function keepTimeZone(redis: Connection, keys: RedisKeys, timeZone: string) {
  // What Redis refuses now is reported by `check`, and record.lua compares the time zones as well.
  const stored = await beginTimeZone(redis, keys, timeZone).catch(() => timeZone);
  if (stored === timeZone) return;
  redis.disconnect();
  throw new Error(`Cannot open the store: ${otherTimeZone(stored, timeZone)}`);
}

/** @returns the master that has the key; undefined while the cluster has none for it */
function masterOf(redis: Connection, key: string): Redis | undefined {
  if (!(redis instanceof Cluster)) return redis;
  const [address] = redis.slots[calculateSlot(key)] ?? [];
  return redis.nodes("master").find(({ options }) => `${options.host}:${options.port}` === address);
}
