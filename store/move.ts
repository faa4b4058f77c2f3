import type { Cluster } from "ioredis";
import { FILLING, LAYOUTS_KEY, prefixesOf, shardOf } from "./layout.ts";
import { boardsOf } from "./periods.ts";
import { scan } from "./redis.ts";
import { type Connection, keysOf } from "./shard.ts";
import { bySpend, MAX_TOP, type Totals, type UserTotals, type WholeStore } from "./store.ts";

/** How far a move has come: the board totals copied last, and where it goes. Gone when it is done. */
const MOVE_KEY = "orders:move";
/** Processes notice a new layout within a second; only then may what they read be removed. */
const NOTICED_MS = 5_000;
/** Keys copied at a time: a few milliseconds of Redis. */
const KEYS = 500;

export interface MoveParts {
  /** What is moved, read through the store. */
  source: WholeStore;
  /** Its servers, its key prefixes, and how it stands in the list of layouts. */
  from: { redis: Connection; prefixes: string[]; layouts: string };
  to: { cluster: Cluster; shards: number };
  say: (line: string) => void;
}

export interface Moved {
  orders: number;
  cents: number;
  shards: number;
  boards: number;
  /** How long nothing was counted. */
  pauseSeconds: number;
}

const NOTHING: Totals = { orders: 0, cents: 0 };
const add = (a: Totals, b: Totals): Totals => ({ orders: a.orders + b.orders, cents: a.cents + b.cents });
const inWords = ({ orders, cents }: Totals) => `${orders} ${cents}`;

/**
 * Moves all orders into `to.shards` shards of a cluster, while orders arrive. Boards are copied while they are counted;
 * then the source is closed, what has changed is copied again, and the new shards are opened. Between the two nothing is
 * counted: orders wait in the queue, and batches in hand are held. May die on any line and be run again: before
 * the opening a copy only overwrites itself, and from then on only what is still closed is opened.
 */
export async function moveStore({ source, from, to, say }: MoveParts): Promise<Moved> {
  const { cluster, shards } = to;
  const prefixes = prefixesOf(shards);
  const keys = prefixes.map(keysOf);
  const inPlace = from.redis === cluster;
  let boards = 0;
  if (await isDone()) {
    say(`All has been moved to ${shards} shards already`);
    return { ...(await source.global()), shards, boards, pauseSeconds: 0 };
  }
  await begin();
  let closedAt = performance.now();
  if ((await cluster.hget(MOVE_KEY, "phase")) !== "opening") {
    // The second pass has what was counted during the first; what is left to copy after the closing is small.
    for (const pass of [1, 2]) {
      const copied = await copyChanged();
      boards = Math.max(boards, copied);
      say(`${copied} boards copied while orders are counted, pass ${pass}`);
    }
    closedAt = performance.now();
    await closeSource();
    say(`Counting stops: ${await copyChanged()} boards have changed meanwhile`);
    if (!inPlace) await copyMarkers();
    await writeTotals();
    await cluster.hset(MOVE_KEY, "phase", "opening");
  }
  const total = await source.global();
  await open();
  const pauseSeconds = Math.round((performance.now() - closedAt) / 100) / 10;
  say(`Counting may go on, in ${shards} shards`);
  if (inPlace) await removeSource();
  await cluster.del(MOVE_KEY);
  return { ...total, shards, boards, pauseSeconds };

  async function isDone(): Promise<boolean> {
    const [layouts, going] = [await cluster.get(LAYOUTS_KEY), await cluster.exists(MOVE_KEY)];
    const seen = (await from.redis.get(keysOf("").seen)) ?? "";
    // Of a single Redis that is not closed, the cluster holds nothing.
    return !going && Number.parseInt(layouts ?? "", 10) === shards && (inPlace || seen.includes("closed"));
  }

  async function begin() {
    const layouts = (await cluster.get(LAYOUTS_KEY)) ?? "";
    const [going, goal] = await cluster.hmget(MOVE_KEY, "from", "shards");
    if (going) {
      if (Number(goal) !== shards) throw new Error(`A move to ${goal} shards has begun: finish that one first`);
      return;
    }
    if (!inPlace && layouts !== "") throw new Error("The cluster holds orders already: begin with an empty one");
    // The new shards would have the names of the old, whose order ids are still looked up.
    if (layouts.split(" ").some((each) => Number(each.split("@")[0]) === shards))
      throw new Error(`The cluster is in ${shards} shards, or has been: choose another number`);
    await cluster.hset(MOVE_KEY, "from", from.layouts, "shards", shards);
    if (!inPlace) await cluster.set(LAYOUTS_KEY, FILLING);
    for (const { seen } of keys) await cluster.set(seen, "closed");
  }

  /** Copies the boards whose totals are not those of their last copy; answers how many. */
  async function copyChanged(): Promise<number> {
    const days = await source.days();
    const totals = await source.daily(days);
    const boards = new Map<string, Totals>();
    for (const [index, day] of days.entries())
      for (const board of boardsOf(day)) boards.set(board, add(boards.get(board) ?? NOTHING, totals[index] ?? NOTHING));
    let copied = 0;
    for (const [board, total] of boards) {
      if ((await cluster.hget(MOVE_KEY, board)) === inWords(total)) continue;
      await copyBoard(board);
      // The total from before the copy: whatever was counted since makes the board one that has changed.
      await cluster.hset(MOVE_KEY, board, inWords(total));
      copied++;
    }
    return copied;
  }

  async function copyBoard(board: string) {
    const sums = keys.map(() => NOTHING);
    const first: UserTotals[][] = keys.map(() => []);
    const isDay = board.startsWith("d:");
    for await (const page of source.userIds(board)) {
      const places = await source.places(board, page);
      const users = page.map((userId, index) => ({ userId, ...(places[index] ?? NOTHING) }));
      const byShard = Map.groupBy(users, ({ userId }) => shardOf(userId, shards));
      await Promise.all(
        [...byShard].map(async ([shard, ofShard]) => {
          sums[shard] = ofShard.reduce(add, sums[shard] ?? NOTHING);
          first[shard] = [...(first[shard] ?? []), ...ofShard].sort(bySpend).slice(0, MAX_TOP);
          const fields = ofShard.flatMap((user) => [user.userId, inWords(user)]);
          await cluster.hset(keys[shard]?.board(board) ?? "", ...fields);
        }),
      );
      // Whoever's total has changed is on the board of a day that has changed.
      if (isDay) await Promise.all(page.map(copyUser));
    }
    for (const [shard, { top, board: key, days }] of keys.entries()) {
      await cluster.del(top(board));
      if ((await cluster.hlen(key(board))) > MAX_TOP)
        await cluster.zadd(top(board), ...(first[shard] ?? []).flatMap(({ userId, cents }) => [`-${cents}`, userId]));
      if (isDay && sums[shard]?.orders) await cluster.hset(days, board, inWords(sums[shard]));
    }
  }

  async function copyUser(userId: string) {
    const { orders, cents } = await source.user(userId);
    const key = keys[shardOf(userId, shards)]?.user(userId) ?? "";
    await cluster.hset(key, "order_count", orders, "total_spend", decimal(cents));
  }

  /** From here on the source counts nothing, whoever asks. */
  async function closeSource() {
    for (const { seen, claims } of from.prefixes.map(keysOf))
      for (const list of [seen, claims])
        if (!(await from.redis.get(list))?.includes("closed")) await from.redis.append(list, " closed");
  }

  /** What remembers order ids, and what there is to look at, under the same names; each key with what is left of its time. */
  async function copyMarkers() {
    for (const match of ["orders:seen*", "orders:recent:*"]) {
      for await (const found of serversOf(from.redis, match)) {
        for (let at = 0; at < found.length; at += KEYS) await Promise.all(found.slice(at, at + KEYS).map(copyKey));
      }
    }
  }

  async function copyKey(key: string) {
    const [value, left] = await Promise.all([from.redis.dumpBuffer(key), from.redis.pttl(key)]);
    if (value) await cluster.restore(key, Math.max(left, 0), value, "REPLACE");
  }

  /** The total of each shard is that of its days; all together must be that of the source. */
  async function writeTotals() {
    let all = NOTHING;
    for (const { global, days } of keys) {
      const total = (await cluster.hvals(days)).map(toTotals).reduce(add, NOTHING);
      all = add(all, total);
      await cluster.hset(global, "total_orders", total.orders, "total_revenue", decimal(total.cents));
    }
    const expected = inWords(await source.global());
    if (inWords(all) === expected) return;
    throw new Error(`The copy adds up to ${inWords(all)} orders and cents instead of ${expected}; nothing is opened`);
  }

  /** Each shard begins a layer of order ids of its own; those of the source are looked up besides, as long as they matter. */
  async function open() {
    const now = Math.floor(Date.now() / 1000);
    for (const { seen, global } of keys) {
      if ((await cluster.get(seen)) !== "closed") continue;
      await cluster.set(seen, `1 1024 ${(await cluster.hget(global, "total_orders")) ?? 0} ${now}`);
    }
    const [layouts, before = ""] = [await cluster.get(LAYOUTS_KEY), await cluster.hget(MOVE_KEY, "from")];
    if (layouts?.startsWith(`${shards} `)) return;
    const [last, ...others] = (before ?? "").split(" ");
    await cluster.set(LAYOUTS_KEY, [shards, `${last}@${now}`, ...others].join(" "));
  }

  /** Removes the numbers of the old shards. What remembers order ids ends by itself. */
  async function removeSource() {
    await Bun.sleep(NOTICED_MS);
    const before = (await cluster.hget(MOVE_KEY, "from"))?.split(" ")[0];
    for (const prefix of prefixesOf(Number(before))) {
      const { global, days, user, board, top } = keysOf(prefix);
      await cluster.unlink(global);
      await cluster.unlink(days);
      for (const match of [user("*"), board("*"), top("*")])
        for await (const found of serversOf(cluster, match)) await Promise.all(found.map((key) => cluster.unlink(key)));
    }
  }
}

async function* serversOf(redis: Connection, match: string): AsyncGenerator<string[]> {
  const servers = "nodes" in redis ? redis.nodes("master") : [redis];
  for (const server of servers) yield* scan(server, match);
}

const decimal = (cents: number) => `${Math.floor(cents / 100)}.${`${cents % 100}`.padStart(2, "0")}`;

function toTotals(text: string): Totals {
  const [orders, cents] = text.split(" ").map(Number);
  return { orders: orders ?? 0, cents: cents ?? 0 };
}
