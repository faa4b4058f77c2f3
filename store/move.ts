import type { Cluster } from "ioredis";
import { FILLING, LAYOUTS_KEY, prefixesOf, shardOf } from "./layout.ts";
import { boardsOf } from "./periods.ts";
import { scan } from "./redis.ts";
import { type Connection, keysOf } from "./shard.ts";
import { bySpend, MAX_TOP, type Totals, type UserTotals, type WholeStore } from "./store.ts";

/** How far a move has come: the board totals copied last, and where it goes. Gone when it is done. */
const MOVE_KEY = "orders:move";
/** Two moves at once would undo each other's copies. One that dies leaves the lock for as long as this. */
const LOCK_KEY = "orders:move-lock";
const LOCK_MS = 3_000;
/** Processes notice a new layout within a second; only then may what they read be removed. */
const NOTICED_MS = 5_000;
/** Keys copied at a time: a few milliseconds of Redis. */
const KEYS = 500;

export interface MoveParts {
  /** What is moved, read through the store. */
  source: WholeStore;
  /** Its connection: a single Redis, or the cluster itself, whose shards are to be others. */
  from: Connection;
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
  const inPlace = from === cluster;
  let boards = 0;
  /** The layouts so far, the source first. */
  let before = "1";
  const lock = await takeLock(cluster, say);
  try {
    return await move();
  } finally {
    await lock.release();
  }

  async function move(): Promise<Moved> {
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
      lock.check();
      await closeSource();
      say(`Counting stops: ${await copyChanged()} boards have changed meanwhile`);
      if (!inPlace) await copyMarkers();
      await writeTotals();
      lock.check();
      await cluster.hset(MOVE_KEY, "phase", "opening");
    }
    const total = await source.global();
    await open();
    const pauseSeconds = Math.round((performance.now() - closedAt) / 100) / 10;
    say(`Counting may go on, in ${shards} shards`);
    if (inPlace) await removeSource();
    await cluster.del(MOVE_KEY);
    return { ...total, shards, boards, pauseSeconds };
  }

  async function isDone(): Promise<boolean> {
    const [layouts, going] = [await cluster.get(LAYOUTS_KEY), await cluster.exists(MOVE_KEY)];
    const seen = (await from.get(keysOf("").seen)) ?? "";
    // Of a single Redis that is not closed, the cluster holds nothing.
    return !going && Number.parseInt(layouts ?? "", 10) === shards && (inPlace || seen.includes("closed"));
  }

  async function begin() {
    const layouts = (await cluster.get(LAYOUTS_KEY)) ?? "";
    const [going, goal, phase] = await cluster.hmget(MOVE_KEY, "from", "shards", "phase");
    if (!going) refuseOthers(layouts);
    else if (Number(goal) !== shards) throw new Error(`A move to ${goal} shards has begun: finish that one first`);
    before = going ?? (inPlace ? layouts : "1");
    if (phase === "opening") return;
    // Again in every run: the one before may have died between these lines.
    await cluster.hset(MOVE_KEY, "from", before, "shards", shards);
    if (!inPlace) await cluster.set(LAYOUTS_KEY, FILLING);
    for (const { seen } of keys) await cluster.set(seen, "closed");
  }

  function refuseOthers(layouts: string) {
    if (!inPlace && layouts !== "")
      throw new Error(`The cluster is in use already (${LAYOUTS_KEY} is there): begin with an empty one`);
    if (inPlace && layouts === "")
      throw new Error("The cluster holds no orders: REDIS_URL names the Redis to move from");
    // The new shards would have the names of the old, whose order ids are still looked up.
    if (layouts.split(" ").some((each) => Number(each.split("@")[0]) === shards))
      throw new Error(`The cluster is in ${shards} shards, or has been: choose another number`);
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
      lock.check();
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
    for (const { seen, claims } of prefixesOf(Number.parseInt(before, 10)).map(keysOf))
      for (const list of [seen, claims])
        if (!(await from.get(list))?.includes("closed")) await from.append(list, " closed");
  }

  /** What remembers order ids, and what there is to look at, under the same names; each key with what is left of its time. */
  async function copyMarkers() {
    for (const match of ["orders:seen*", "orders:recent:*"]) {
      for await (const found of serversOf(from, match)) {
        for (let at = 0; at < found.length; at += KEYS) await Promise.all(found.slice(at, at + KEYS).map(copyKey));
      }
    }
  }

  async function copyKey(key: string) {
    lock.check();
    const [value, left] = await Promise.all([from.dumpBuffer(key), from.pttl(key)]);
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
    if ((await cluster.get(LAYOUTS_KEY))?.startsWith(`${shards} `)) return;
    const [last, ...others] = before.split(" ");
    await cluster.set(LAYOUTS_KEY, [shards, `${last}@${now}`, ...others].join(" "));
  }

  /** Removes the numbers of the old shards. What remembers order ids ends by itself. */
  async function removeSource() {
    await Bun.sleep(NOTICED_MS);
    const last = Number.parseInt(before, 10);
    const old = new Set(prefixesOf(last));
    for await (const found of serversOf(cluster, `{${last}.*`)) {
      const numbers = found.filter((key) => {
        const end = key.indexOf("}") + 1;
        return old.has(key.slice(0, end)) && NUMBERS.test(key.slice(end));
      });
      await Promise.all(numbers.map((key) => cluster.unlink(key)));
    }
  }
}

/** The keys of a shard but for what remembers order ids. */
const NUMBERS = /^(global:stats$|user:|orders:(days$|board:|top:))/;

async function takeLock(cluster: Cluster, say: MoveParts["say"]) {
  const id = crypto.randomUUID();
  for (let waiting = false; (await cluster.set(LOCK_KEY, id, "PX", LOCK_MS, "NX")) !== "OK"; waiting = true) {
    if (!waiting) say("Waits for another move to end");
    await Bun.sleep(LOCK_MS / 10);
  }
  let lost = false;
  const renewing = setInterval(async () => {
    const owner = await cluster.get(LOCK_KEY).catch(() => id);
    if (owner === id) await cluster.pexpire(LOCK_KEY, LOCK_MS).catch(() => {});
    else lost = true;
  }, LOCK_MS / 6);

  function check() {
    if (lost) throw new Error("Another move has begun meanwhile: this one ends");
  }

  async function release() {
    clearInterval(renewing);
    if (!lost) await cluster.del(LOCK_KEY);
  }

  return { check, release };
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
