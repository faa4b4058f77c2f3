import calculateSlot from "cluster-key-slot";
import type { Cluster } from "ioredis";
import { scan } from "./redis.ts";
import type { Replicate } from "./replicate.ts";
import {
  type Connection,
  claimOf,
  createShard,
  digestOf,
  foundIn,
  type IdDigest,
  isIn,
  keysOf,
  type Layers,
  layersOf,
  type Shard,
} from "./shard.ts";
import { MARKER_WINDOW_SECONDS, type Order } from "./store.ts";

const SLOTS = 16_384;
/** Says how many shards there are, and of how many, until when, those before them were: "32 16@1764150000 1@…". */
export const LAYOUTS_KEY = "orders:layouts";

/** The shard of a user among `shards`. */
export const shardOf = (userId: string, shards: number) => calculateSlot(userId) % shards;

/**
 * The key prefixes of `shards` shards. Each is a hash tag in the middle of its part of the slots, so that masters that
 * have equal ranges of them, as `redis-cli --cluster create` gives them, have equal numbers of shards. One shard is a
 * single Redis: no tag.
 */
export function prefixesOf(shards: number): string[] {
  if (shards === 1) return [""];
  return Array.from({ length: shards }, (_, shard) => {
    for (let attempt = 0; ; attempt++) {
      const tag = `{${shards}.${shard}.${attempt}}`;
      if (Math.floor((calculateSlot(tag) * shards) / SLOTS) === shard) return tag;
    }
  });
}

/** Stands in place of the layouts while a new cluster is filled (move.ts): nobody may begin to count in it. */
export const FILLING = "filling";

export interface Layout {
  /** As it stands in the cluster; "" in one that holds no orders yet. */
  text: string;
  shards: Shard[];
  prefixes: string[];
  /** What the layouts before this one have counted; nothing is added there any more. */
  earlier: Awaited<ReturnType<typeof readEarlier>>[];
}

/** The layout that the cluster is in; a new cluster is to begin with `wanted` shards, and is in none before. */
export async function readLayout(redis: Cluster, wanted: number, replicate?: Replicate): Promise<Layout> {
  const begun = await redis.get(LAYOUTS_KEY);
  if (begun === null) await refuseLost(redis);
  const text = begun ?? `${wanted}`;
  if (text === FILLING) throw new Error("Orders are being moved into this cluster: wait until that is done");
  const [current = 0, ...others] = text.split(" ").map((each) => Number(each.split("@")[0]));
  const movedAt = text.split(" ").map((each) => Number(each.split("@")[1] ?? 0));
  const oldest = Date.now() / 1000 - MARKER_WINDOW_SECONDS;
  const relevant = others.filter((_, index) => (movedAt[index + 1] ?? 0) > oldest);
  const prefixes = prefixesOf(current);
  return {
    text: begun ?? "",
    prefixes,
    shards: prefixes.map((prefix) => createShard(redis, { prefix, shards: current, replicate })),
    earlier: await Promise.all(relevant.map((shards) => readEarlier(redis, shards))),
  };
}

/** Of several processes that start at once the first one's number counts. */
export const beginLayout = (redis: Cluster, wanted: number) => redis.set(LAYOUTS_KEY, `${wanted}`, "NX");

async function refuseLost(redis: Cluster) {
  // Another process may have begun, and counted, while this one looked.
  if (!(await hasShards(redis)) || (await redis.exists(LAYOUTS_KEY))) return;
  throw new Error(
    `${LAYOUTS_KEY}, which tells how many shards there are, is lost: restore it, or begin with an empty cluster`,
  );
}

async function hasShards(redis: Cluster): Promise<boolean> {
  for (const master of redis.nodes("master"))
    for await (const keys of scan(master, keysOf("{*}").ids)) if (keys.length > 0) return true;
  return false;
}

/** What an earlier layout knows of order ids; it is closed and stays as it is. */
async function readEarlier(redis: Connection, shards: number) {
  const keys = prefixesOf(shards).map(keysOf);
  async function read(list: string): Promise<Layers> {
    const text = await redis.get(list);
    // The move has left a word in each.
    if (text === null)
      throw new Error(`${list}, which tells where order ids of before a move are, is lost: restore it`);
    return layersOf(text, Date.now() / 1000);
  }
  const ids = await Promise.all(keys.map((each) => read(each.ids)));
  // A single Redis has none.
  const claims = shards === 1 ? [] : await Promise.all(keys.map((each) => read(each.claims)));

  /** Whether the order was counted there, or its id is another shard's there. */
  async function wasCounted({ id, userId }: Order): Promise<boolean> {
    const digest = digestOf(id);
    const [own, home] = [shardOf(userId, shards), digest.home % shards];
    const [counted, claimed] = await Promise.all([
      isIn(redis, keys[own]?.ids ?? "", ids[own] ?? [], digest),
      isOthers(home, own, digest),
    ]);
    return counted || claimed;
  }

  /** Whether another shard than `own` has the id. Half of it alone does not tell: of billions two share one. */
  async function isOthers(home: number, own: number, { low, high, chosen }: IdDigest): Promise<boolean> {
    const ask = (integers: string[]) => foundIn(redis, keys[home]?.claims ?? "", claims[home] ?? [], chosen, integers);
    const found = await ask([low, claimOf(high, own)]);
    if (!found.some(([half, mine]) => half && !mine)) return false;
    const others = [...keys.keys()].filter((shard) => shard !== own).map((shard) => claimOf(high, shard));
    return (await ask([low, ...others])).some(([half, ...theirs]) => half && theirs.includes(true));
  }

  /** Whether an order of this id, whoever's, was counted there. */
  async function knows(id: string): Promise<boolean> {
    const digest = digestOf(id);
    const found = keys.map((each, shard) => isIn(redis, each.ids, ids[shard] ?? [], digest));
    return (await Promise.all(found)).includes(true);
  }

  return { wasCounted, knows };
}
