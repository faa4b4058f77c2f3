import type { Cluster, Redis, Result } from "ioredis";
import claimScript from "./claim.lua" with { type: "text" };
import fencedScript from "./fenced.lua" with { type: "text" };
import idsScript from "./ids.lua" with { type: "text" };
import { boardsOf } from "./periods.ts";
import recordScript from "./record.lua" with { type: "text" };
import { type Replicate, scriptOf } from "./replicate.ts";
import {
  bySpend,
  MARKER_WINDOW_SECONDS,
  MAX_TOP,
  MAX_TOTAL_CENTS,
  type Order,
  type Recorded,
  type Totals,
  type UserTotals,
} from "./store.ts";
import topScript from "./top.lua" with { type: "text" };
import turnScript from "./turn.lua" with { type: "text" };

export type Connection = Redis | Cluster;

/** The store's own keys share a prefix of their own: a shop's Redis holds other things too. */
export const keysOf = (prefix: string) => ({
  global: `${prefix}global:stats`,
  user: (userId: string) => `${prefix}user:${userId}`,
  days: `${prefix}orders:days`,
  board: (board: string) => `${prefix}orders:board:${board}`,
  top: (board: string) => `${prefix}orders:top:${board}`,
  ids: `${prefix}orders:ids`,
  claims: `${prefix}orders:claims`,
  claimCount: `${prefix}orders:claim-count`,
  check: `${prefix}orders:check`,
});

/** Users that are read at a time: a millisecond of Redis, so that orders do not wait longer for it. */
export const PAGE = 1_000;

declare module "ioredis" {
  interface RedisCommander<Context> {
    recordOrders(global: string, ...args: (string | number)[]): Result<string, Context>;
    claimOrders(claims: string, count: string, ...args: (string | number)[]): Result<string, Context>;
    turn(lock: string, move: string, id: string, lockMs: number): Result<number, Context>;
    fenced(owned: string, owner: string, commands: string): Result<number, Context>;
    topUsers(board: string, top: string, n: number, unranked: number): Result<[number, string[]], Context>;
  }
}

const sendRecord = scriptOf(idsScript + recordScript, 1);
const sendClaim = scriptOf(idsScript + claimScript, 2);

/** Gives a connection the scripts that the shards call. */
export function defineScripts(redis: Connection) {
  redis.defineCommand("recordOrders", { lua: idsScript + recordScript, numberOfKeys: 1 });
  redis.defineCommand("claimOrders", { lua: idsScript + claimScript, numberOfKeys: 2 });
  redis.defineCommand("turn", { lua: turnScript, numberOfKeys: 2 });
  redis.defineCommand("fenced", { lua: fencedScript, numberOfKeys: 1 });
  redis.defineCommand("topUsers", { lua: topScript, numberOfKeys: 2, readOnly: true });
}

export interface ShardOptions {
  /** Stands before every key: none on a single Redis, a hash tag in a cluster. */
  prefix: string;
  /** How many shards there are: each may hold its part of the most that is exact. */
  shards: number;
  /** Where replicas must have what is recorded before it is answered. */
  replicate: Replicate | undefined;
}

export type Shard = ReturnType<typeof createShard>;

/** The orders of some users, or of all: everything that one `record` changes at once lies in one slot. */
export function createShard(redis: Connection, { prefix, shards, replicate }: ShardOptions) {
  const keys = keysOf(prefix);
  /** ARGV[1] to [4] of the record script. */
  const limits = [prefix, MARKER_WINDOW_SECONDS, Math.floor(MAX_TOTAL_CENTS / shards), MAX_TOP] as const;

  async function record(orders: readonly Order[]): Promise<Recorded[]> {
    if (orders.length === 0) return [];
    const days: string[] = [];
    const rows: (string | number)[] = [];
    for (const { id, userId, cents, day } of orders) {
      if (!days.includes(day)) days.push(day);
      const { low, high, chosen } = digestOf(id);
      rows.push(low, high, chosen, userId, cents, days.indexOf(day) + 1);
    }
    const answer = await runRecord(JSON.stringify(days.map(boardsOf)), JSON.stringify(rows));
    return wordsOf(answer, orders.length).map((one) => (one ? "recorded" : "duplicate"));
  }

  async function runRecord(days: string, rows: string): Promise<string> {
    const args = [keys.global, ...limits, days, rows] as const;
    if (!replicate) return await redis.recordOrders(...args);
    return await replicate(keys.check, sendRecord(...args));
  }

  /**
   * Which of the orders the shards that they are meant for may count: an id that comes with users of two shards belongs
   * to the first. Counts nothing, and is safe to call again.
   */
  async function claim(orders: readonly { id: string; shard: number }[]): Promise<boolean[]> {
    const rows = orders.flatMap(({ id, shard }) => {
      const { low, high, chosen } = digestOf(id);
      return [low, claimOf(high, shard), chosen];
    });
    const text = JSON.stringify(rows);
    const args = [keys.claims, keys.claimCount, prefix, MARKER_WINDOW_SECONDS, shards, text] as const;
    // A claim that is lost would let another shard count the id once more.
    const answer = replicate ? await replicate(keys.check, sendClaim(...args)) : await redis.claimOrders(...args);
    return wordsOf(answer, orders.length);
  }

  const global = async () => toTotals(await redis.hmget(keys.global, "total_orders", "total_revenue"));

  const user = async (userId: string) => toTotals(await redis.hmget(keys.user(userId), "order_count", "total_spend"));

  async function top(board: string, n: number): Promise<UserTotals[]> {
    const [ranked, rows] = await redis.topUsers(keys.board(board), keys.top(board), n, MAX_TOP);
    const users = Array.from({ length: rows.length / 2 }, (_, index) => ({
      userId: rows[index * 2] ?? "",
      ...toSums(rows[index * 2 + 1]),
    }));
    return ranked ? users : users.sort(bySpend).slice(0, n);
  }

  async function daily(days: readonly string[]): Promise<Totals[]> {
    if (days.length === 0) return [];
    return (await redis.hmget(keys.days, ...days.map((day) => `d:${day}`))).map(toSums);
  }

  async function knows(orderId: string): Promise<boolean> {
    for (;;) {
      const [list, [now]] = await Promise.all([redis.get(keys.ids), redis.time()]);
      if (await isIn(redis, keys.ids, layersOf(list ?? "", Number(now)), digestOf(orderId))) return true;
      // It may have gone to another set meanwhile.
      if ((await redis.get(keys.ids)) === list) return false;
    }
  }

  // The record script without orders writes one key: a replica, a full memory, a failed disk and a user without
  // the right to run scripts all answer PING.
  async function check() {
    await runRecord("[]", "[]");
  }

  const days = async () => (await redis.hkeys(keys.days)).map((field) => field.slice("d:".length));

  async function* usersOf(board: string): AsyncGenerator<string[]> {
    const known = new Set<string>();
    for (let cursor = "0"; ; ) {
      const [next, fields] = await redis.hscan(keys.board(board), cursor, "COUNT", PAGE);
      // A scan may come by a user twice. Every other field is a value.
      const page = fields.filter((userId, index) => index % 2 === 0 && !known.has(userId));
      for (const userId of page) known.add(userId);
      yield [...new Set(page)];
      if (next === "0") return;
      cursor = next;
    }
  }

  async function places(board: string, userIds: readonly string[]): Promise<Totals[]> {
    if (userIds.length === 0) return [];
    return (await redis.hmget(keys.board(board), ...userIds)).map(toSums);
  }

  return { record, claim, global, user, top, daily, knows, check, days, usersOf, places };
}

/** Anything but one of the two digits for each order must not let a message be deleted. */
function wordsOf(answer: string, orders: number): boolean[] {
  if (answer.length === orders && /^[01]*$/.test(answer)) return Array.from(answer, (digit) => digit === "1");
  throw new Error(`Redis answered ${JSON.stringify(answer.slice(0, 40))} for ${orders} orders`);
}

const digest = new Uint8Array(32);
const words = new Uint32Array(digest.buffer);

export interface IdDigest {
  /**
   * 98 bits of the id's SHA-256 in two integers of 19 digits, one negative. The first eight digits are the same in both and
   * choose its set (ids.lua).
   */
  low: string;
  high: string;
  chosen: number;
  /** What chooses the shard of its claim. */
  home: number;
}

export function digestOf(id: string): IdDigest {
  Bun.SHA256.hash(id, digest);
  const [first = 0, second = 0, third = 0, fourth = 0, fifth = 0, home = 0] = words;
  // With the bit above these 25 it is always eight digits.
  const chosen = 2 ** 25 + (first >>> 7);
  return {
    low: `${chosen}${elevenDigits(second, third)}`,
    high: `-${chosen}${elevenDigits(fourth, fifth)}`,
    chosen,
    home,
  };
}

/** Of 53 bits. */
const elevenDigits = (a: number, b: number) => `${1e11 + ((a * 2 ** 21 + (b >>> 11)) % 1e11)}`.slice(1);

/** Half of an id's digest as the claim of a shard has it: its last three digits are the shard. */
export const claimOf = (high: string, shard: number) => `${high.slice(0, -3)}${`${shard}`.padStart(3, "0")}`;

/** The layers of a list (ids.lua) that the scripts would look into: one ends when the next begins. */
export function layersOf(list: string, nowSeconds: number) {
  const layers = Array.from(list.matchAll(/(\d+) (\d+) \d+ (\d+)/g), ([, number, sets, at]) => ({
    number,
    sets: Number(sets),
    at: Number(at),
  }));
  const first = layers.findLastIndex(({ at }) => at + MARKER_WINDOW_SECONDS <= nowSeconds);
  return layers.slice(Math.max(first, 0));
}

export type Layers = ReturnType<typeof layersOf>;

/** The set of an id in a layer of so many, as ids.lua has it. */
function setOf(sets: number, chosen: number): number {
  const round = 2 ** (31 - Math.clz32(sets));
  const set = chosen % (2 * round);
  return set < sets ? set : set - round;
}

/** Which of the integers of an id are there, for each layer. */
export async function foundIn(redis: Connection, list: string, layers: Layers, chosen: number, integers: string[]) {
  const found = layers.map(({ number, sets }) =>
    redis.smismember(`${list}:${number}:${setOf(sets, chosen)}`, integers),
  );
  return (await Promise.all(found)).map((ofLayer) => ofLayer.map((there) => there === 1));
}

/** Whether an id is in one of the layers. */
export async function isIn(redis: Connection, list: string, layers: Layers, { low, high, chosen }: IdDigest) {
  return (await foundIn(redis, list, layers, chosen, [low, high])).some((halves) => !halves.includes(false));
}

/** "orders cents", as the store's own hashes hold them. */
function toSums(text: string | null | undefined): Totals {
  const [orders, cents] = (text ?? "0 0").split(" ");
  return { orders: Number(orders), cents: Number(cents) };
}

/** Count and decimal text, as the two hashes hold them; both absent for a key that is not there. */
function toTotals([orders, amount]: (string | null)[]): Totals {
  // Digit by digit: a product with 100 would round amounts near the limit.
  const [whole, fraction = ""] = (amount ?? "0").split(".");
  return { orders: Number(orders ?? 0), cents: Number(whole) * 100 + Number(fraction.padEnd(2, "0")) };
}
