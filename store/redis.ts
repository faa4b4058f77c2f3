import { Redis, type RedisOptions } from "ioredis";
import { COMMAND_TIMEOUT_MS, reasonOf } from "./reason.ts";
import { adviseOn } from "./redis-advice.ts";
import { createReplicate } from "./replicate.ts";
import { createShard, defineScripts, keysOf, PAGE } from "./shard.ts";
import { createShelf } from "./shelf.ts";
import type { WholeStore } from "./store.ts";

/** Counting should resume within two seconds of an outage's end, so the pauses between connects stay below one. */
const MAX_RECONNECT_PAUSE_MS = 500;

export const retryPauseMs = (attempt: number) => Math.min(attempt * 50, MAX_RECONNECT_PAUSE_MS);

/** Of every connection to a Redis, single or in a cluster. */
export const CONNECTION = {
  connectTimeout: COMMAND_TIMEOUT_MS,
  commandTimeout: COMMAND_TIMEOUT_MS,
  // A connection that has died without a word (NAT, failover) is replaced, not only its commands given up.
  socketTimeout: COMMAND_TIMEOUT_MS,
  // After a failover the old master answers READONLY for as long as the connection to it lives.
  reconnectOnError: (error) => error.message.startsWith("READONLY"),
} satisfies RedisOptions;

/** Of the client, single or cluster. */
export const CLIENT = {
  lazyConnect: true,
  // While Redis is away a call fails at once: the caller holds its messages, Redis's client should not.
  enableOfflineQueue: false,
  enableAutoPipelining: true,
  // A worker has one script on its way at a time, and nothing to gather for it.
  autoPipeliningIgnoredCommands: ["recordOrders"],
};

/**
 * The store on a single Redis: `user:{user_id}` and `global:stats` for others to read, the rest its own.
 * Rejects with one sentence when Redis cannot be reached now; later outages reject the calls made meanwhile,
 * at once, and end by themselves.
 */
export async function openRedisStore(address: { url: string; waitReplicas?: number }): Promise<WholeStore> {
  const redis = await connectRedis(address.url);
  const replicate = createReplicate(redis, address.waitReplicas ?? 0);
  const { usersOf, ...shard } = createShard(redis, { prefix: "", shards: 1, replicate });
  const { board, top, user } = keysOf("");

  const check = () => explained(shard.check());
  const advice = () => adviseOn(redis);
  const close = async () => redis.disconnect();

  async function boards(): Promise<string[]> {
    const boards = new Set<string>();
    for (const prefix of [board(""), top("")]) {
      for await (const keys of scan(redis, `${prefix}*`)) for (const key of keys) boards.add(key.slice(prefix.length));
    }
    return [...boards];
  }

  async function* userIds(board?: string): AsyncGenerator<string[]> {
    if (board !== undefined) return yield* usersOf(board);
    for await (const keys of scan(redis, user("*"))) yield keys.map((key) => key.slice(user("").length));
  }

  return { ...shard, ...createShelf(redis), check, advice, close, boards, userIds };
}

/** All keys of one server that match, a page at a time: it misses none and may repeat some. */
export const scan = (redis: Redis, match: string): AsyncIterable<string[]> => redis.scanStream({ match, count: PAGE });

/** A rejection in words that an operator can act on. */
export async function explained(checking: Promise<void>) {
  await checking.catch((error) => {
    throw new Error(`Redis takes no orders: ${reasonOf(error)}`, { cause: error });
  });
}

export async function connectRedis(url: string): Promise<Redis> {
  const redis = new Redis(url, { ...CLIENT, ...CONNECTION, retryStrategy: retryPauseMs });
  defineScripts(redis);
  let reason: unknown;
  redis.on("error", (error) => {
    reason = error;
  });
  try {
    await redis.connect();
    await redis.ping();
    // ioredis goes on in database 0 where there is none of this number: two shops' orders in one sum.
    if (redis.options.db) await redis.select(redis.options.db);
    // Its first order would be the first to be refused, and an audit find nothing.
    if (/cluster_enabled:1/.test(await redis.info("cluster").catch(() => "")))
      throw new Error("it is a node of a Redis Cluster. Name it with REDIS_CLUSTER_NODES");
    return redis;
  } catch (error) {
    redis.disconnect();
    throw new Error(`Cannot reach Redis at ${withoutPassword(url)}: ${reasonOf(reason ?? error)}`, {
      cause: error,
    });
  }
}

function withoutPassword(url: string): string {
  const shown = new URL(url);
  if (shown.password) shown.password = "…";
  return shown.href;
}
