import type { ChainableCommander } from "ioredis";
import { beginTimeZone, prefixOf } from "./redis.ts";
import { connectRedis, type RedisAddress } from "./redis-connection.ts";
import { hashOf, parseGenerations, redisKeys } from "./redis-keys.ts";
import { allOf, decimalOf, findForeignUserKeys } from "./redis-values.ts";
import { bySpend, ForeignKeyError, type FullStore, MAX_TOP, NO_ORDERS, type UserTotals } from "./store.ts";

const UNFINISHED = "a copy into it has not finished. Run bun scripts/copy-store.ts again";
/** Replicas may be some seconds behind after a copy. Must be shorter than the command timeout of five seconds. */
const REPLICAS_MS = 4_000;
/** FIRST_HASHES and FIELDS_PER_HASH in record.lua. */
const MIN_HASHES = 131_072;
const MARKERS_PER_HASH = 96;

/** In one step: a copy that was started later must not be opened by an earlier one. */
const OPEN_IF_OWNER = `if redis.call("HGET", KEYS[1], "copy") ~= ARGV[1] then return 0 end
redis.call("HDEL", KEYS[1], "closed", "copy")
return 1`;

export type RedisImport = Awaited<ReturnType<typeof openRedisImport>>;

/**
 * Opens an empty Redis as the target of a copy. The target stays closed until `finish`, so that no process records orders there.
 * All functions write absolute values, so a copy that was killed can be started again.
 *
 * @param timeZone of the source
 * @throws an Error if the target contains orders, other than those of an unfinished copy, or was begun with another time zone
 */
export async function openRedisImport(address: RedisAddress, timeZone: string) {
  const redis = await connectRedis(address);
  const keys = redisKeys(prefixOf(redis, address.keyPrefix));
  const execute = async <T>(fill: (pipeline: ChainableCommander) => void) => {
    const pipeline = redis.pipeline();
    fill(pipeline);
    return await allOf<T>(pipeline);
  };
  const send = async (fill: (pipeline: ChainableCommander) => void) => {
    await checkOwner();
    await execute(fill);
  };

  // Closed before it is looked at: no process can record its first order in between.
  const isNew = await redis.hsetnx(keys.store, "closed", UNFINISHED);
  const isUsed = (await redis.exists(keys.global, keys.days)) + (await redis.hexists(keys.store, "generations")) > 0;
  const isUnfinished = !isNew && (await redis.hget(keys.store, "closed")) === UNFINISHED;
  const begunWith = isUsed && !isUnfinished ? undefined : await beginTimeZone(redis, keys, timeZone);
  const reason =
    begunWith === undefined
      ? "The target contains orders. If a copy into it was completed, use it; otherwise"
      : begunWith !== timeZone && `The target was begun with TIME_ZONE=${begunWith}, the source with ${timeZone}:`;
  if (reason) {
    if (isNew) await redis.hdel(keys.store, "closed");
    redis.disconnect();
    throw new Error(`${reason} name an empty Redis, or another --prefix`);
  }
  const id = crypto.randomUUID();

  /** Throws if another copy into the same target was started later. */
  async function checkOwner() {
    if ((await redis.hget(keys.store, "copy")) !== id)
      throw new Error("another copy into the target was started: this one ends");
  }

  /** @returns the number of hashes that the markers are spread over */
  async function begin(markerCount: number, windowSeconds: number) {
    const [unfinished] = parseGenerations(await redis.hget(keys.store, "generations"));
    // As many as the unfinished copy had, which may have spread markers over them.
    const hashes = unfinished?.hashes ?? Math.max(MIN_HASHES, Math.ceil((2 * markerCount) / MARKERS_PER_HASH));
    // One generation that is opened now: every marker is kept for a whole window from now on.
    const generations = `1 ${hashes} 0 ${Math.floor(Date.now() / 1000)} ${hashes}`;
    await redis.hset(keys.store, { copy: id, window_seconds: windowSeconds, generations });
    await redis.del(keys.users);
    return hashes;
  }

  async function addUsers(page: UserTotals[]) {
    const userKeys = page.map(({ userId }) => keys.user(userId));
    const [foreign] = await findForeignUserKeys(redis, userKeys);
    if (foreign) throw new ForeignKeyError(`${foreign} in the target holds data of another program: use --prefix`);
    await send((pipeline) => {
      for (const { userId, orders, cents } of page)
        pipeline.hset(keys.user(userId), { order_count: orders, total_spend: decimalOf(cents) });
      pipeline.rpush(keys.users, ...page.map(({ userId }) => userId));
    });
  }

  async function addLeaderboard(name: string, pages: AsyncIterable<UserTotals[]>) {
    let [count, first]: [number, UserTotals[]] = [0, []];
    for await (const page of pages) {
      const row = page.flatMap(({ userId, orders, cents }) => [userId, `${orders} ${cents}`]);
      if (row.length > 0) await send((pipeline) => pipeline.hset(keys.board(name), ...row));
      count += page.length;
      first = [...first, ...page].sort(bySpend).slice(0, MAX_TOP);
    }
    if (count > MAX_TOP) await redis.zadd(keys.top(name), ...first.flatMap(({ userId, cents }) => [-cents, userId]));
  }

  const addMarkers = (markers: Uint8Array[], hashes: number) =>
    send((pipeline) => {
      for (const marker of markers) pipeline.hset(keys.markers(1, hashOf(marker, hashes)), Buffer.from(marker), "");
    });

  /** @returns how many of the markers are not in the target */
  async function countMissing(markers: Uint8Array[], hashes: number): Promise<number> {
    const found = await execute<number>((pipeline) => {
      for (const marker of markers) pipeline.hexists(keys.markers(1, hashOf(marker, hashes)), Buffer.from(marker));
    });
    return found.filter((one) => one !== 1).length;
  }

  async function addDays(source: FullStore) {
    const days = await source.days();
    const totals = await source.daily(days);
    const row = days.flatMap((day, index) => {
      const { orders, cents } = totals[index] ?? NO_ORDERS;
      return [`d:${day}`, `${orders} ${cents}`];
    });
    if (row.length > 0) await redis.hset(keys.days, ...row);
    const { orders, cents } = await source.global();
    if (row.length > 0) await redis.hset(keys.global, { total_orders: orders, total_revenue: decimalOf(cents) });
    return days;
  }

  /** Waits until the replicas have the copy, then opens the target for all processes. */
  async function finish() {
    const { waitReplicas = 0 } = address;
    const [, replicas] = await allOf<number>(
      redis.pipeline().set(keys.check, "", "EX", 60).wait(waitReplicas, REPLICAS_MS),
    );
    if (Number(replicas) < waitReplicas)
      throw new Error(`only ${replicas} of ${waitReplicas} replicas have the copy. Run it again when they are back`);
    const isOwner = await redis.eval(OPEN_IF_OWNER, 1, keys.store, id);
    if (isOwner !== 1) throw new Error("another copy into the target was started: this one ends");
  }

  return {
    begin,
    addUsers,
    addLeaderboard,
    addMarkers,
    countMissing,
    addDays,
    finish,
    close: () => redis.disconnect(),
  };
}
