import calculateSlot from "cluster-key-slot";
import type { Cluster } from "ioredis";
import { FILLING, LAYOUTS_KEY, prefixesOf, shardOf } from "./layout.ts";
import { boardsOf } from "./periods.ts";
import { scan } from "./redis.ts";
import { createReplicate } from "./replicate.ts";
import { type Connection, keysOf } from "./shard.ts";
import { bySpend, MAX_TOP, type Totals, type UserTotals, type WholeStore } from "./store.ts";

/**
 * How far a move has come: the board totals copied last, when counting was stopped, where it goes, and whose turn it is.
 * Gone when it is done. In the slot of the layouts, as is the lock, so that what changes both is one step.
 */
const MOVE_KEY = `{${LAYOUTS_KEY}}:move`;
/** One move at a time. One that dies leaves the lock for as long as this. */
const LOCK_KEY = `{${LAYOUTS_KEY}}:move-lock`;
const LOCK_MS = 3_000;
/** Processes notice a new layout within a second; only then may what they read be removed. */
const NOTICED_MS = 5_000;
/** Keys copied at a time, and users written by one command: a few milliseconds of Redis. */
const KEYS = 500;

export interface MoveParts {
  /** What is moved, read through the store. */
  source: WholeStore;
  /** Its connection: a single Redis, or the cluster itself, whose shards are to be others. */
  from: Connection;
  to: { cluster: Cluster; shards: number };
  /** How many replicas must have every step before the next one relies on it. */
  waitReplicas: number;
  say: (line: string) => void;
}

export interface Moved {
  orders: number;
  cents: number;
  shards: number;
  boards: number;
  /** How long nothing was counted, runs before included; null where all had been moved before. */
  pauseSeconds: number | null;
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
export async function moveStore({ source, from, to, waitReplicas, say }: MoveParts): Promise<Moved> {
  const { cluster, shards } = to;
  const prefixes = prefixesOf(shards);
  const keys = prefixes.map(keysOf);
  const inPlace = from === cluster;
  const replicate = createReplicate(cluster, waitReplicas);
  let boards = 0;
  /** The layouts so far, the source first. */
  let before = "1";
  const turn = await takeTurn(cluster, say);
  /** What stands in a new shard while it is ours to fill. */
  const closed = `closed ${turn.id}`;
  try {
    return await move();
  } finally {
    await turn.end();
  }

  async function move(): Promise<Moved> {
    if (await isDone()) return { ...(await source.global()), shards, boards, pauseSeconds: null };
    await begin();
    const [phase, closedAt] = await cluster.hmget(MOVE_KEY, "phase", "closed");
    if (phase !== "opening") {
      // The second pass has what was counted during the first; what is left to copy after the closing is small.
      for (const pass of closedAt ? [] : [1, 2]) {
        const copied = await copyChanged();
        boards = Math.max(boards, copied);
        say(`${copied} boards copied while orders are counted, pass ${pass}`);
      }
      await turn.write(["HSETNX", MOVE_KEY, "closed", `${Date.now()}`]);
      say("Counting stops");
      await closeSource();
      const changed = await copyChanged();
      boards = Math.max(boards, changed);
      say(`${changed} boards that have changed meanwhile copied again`);
      if (!inPlace) await copyMarkers();
      await writeTotals();
      await settled(prefixes);
      await turn.write(["HSET", MOVE_KEY, "phase", "opening"]);
      await settled([LAYOUTS_SLOT]);
    }
    const total = await source.global();
    await open();
    const pauseSeconds = Math.round((Date.now() - Number(await cluster.hget(MOVE_KEY, "closed"))) / 100) / 10;
    say(`Counting may go on, in ${shards} shards`);
    if (inPlace) await removeSource();
    await turn.write(["DEL", MOVE_KEY]);
    return { ...total, shards, boards, pauseSeconds };
  }

  async function isDone(): Promise<boolean> {
    const [layouts, going] = [await cluster.get(LAYOUTS_KEY), await cluster.hexists(MOVE_KEY, "from")];
    const ids = (await from.get(keysOf("").ids)) ?? "";
    // Of a single Redis that is not closed, the cluster holds nothing.
    return !going && Number.parseInt(layouts ?? "", 10) === shards && (inPlace || ids.includes("closed"));
  }

  async function begin() {
    const layouts = (await cluster.get(LAYOUTS_KEY)) ?? "";
    const [going, goal, phase] = await cluster.hmget(MOVE_KEY, "from", "shards", "phase");
    if (!going) refuseOthers(layouts);
    else if (Number(goal) !== shards) throw new Error(`A move to ${goal} shards has begun: finish that one first`);
    before = going ?? (inPlace ? layouts : "1");
    if (!inPlace) await tryToCopy();
    // Again in every run: the one before may have died between these lines.
    if (phase !== "opening") {
      await turn.write(["HSET", MOVE_KEY, "from", before, "shards", `${shards}`]);
      if (!inPlace) await turn.write(["SET", LAYOUTS_KEY, FILLING]);
    }
    // A shard that is open already is one that the run before has opened.
    for (const { ids } of keys) await take(ids, phase !== "opening");
  }

  /** Makes a new shard ours, whoever had it before; none where it is not there yet, unless it may be made. */
  async function take(ids: string, may: boolean) {
    const held = await cluster.get(ids);
    if (held === null && may) await cluster.set(ids, closed, "NX");
    else if (held?.startsWith("closed")) await cluster.fenced(ids, held, JSON.stringify([["SET", ids, closed]]));
  }

  /** What is copied when nothing is counted any more is tried before: rights, and a server that can read the other's form. */
  async function tryToCopy() {
    const value = await from.dumpBuffer(keysOf("").ids);
    if (value) await cluster.restore(`${keysOf("").ids}-try`, 1_000, value, "REPLACE");
  }

  /** Writes to one new shard, while it is ours. */
  async function write(shard: number, commands: (string | number)[][]) {
    if (commands.length === 0) return;
    const texts = commands.map((command) => command.map(String));
    await cluster.fenced(keys[shard]?.ids ?? "", closed, JSON.stringify(texts));
  }

  /** Resolves once the replicas have what the masters of these prefixes were told. */
  async function settled(ofPrefixes: string[]) {
    const checks = ofPrefixes.map((prefix) => keysOf(prefix).check);
    await Promise.all(checks.map((key) => replicate?.(key, (to) => to.get(key))));
  }

  function refuseOthers(layouts: string) {
    if (!inPlace && layouts !== "")
      throw new Error(
        `The cluster is in use already (${LAYOUTS_KEY} is there): name an empty one, or leave REDIS_URL out to move within it`,
      );
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
      await turn.write(["HSET", MOVE_KEY, board, inWords(total)]);
      copied++;
    }
    return copied;
  }

  async function copyBoard(board: string) {
    const sums = keys.map(() => NOTHING);
    const first: UserTotals[][] = keys.map(() => []);
    const isDay = board.startsWith("d:");
    for await (const page of source.userIds(board)) {
      for (let at = 0; at < page.length; at += KEYS) {
        const userIds = page.slice(at, at + KEYS);
        const places = await source.places(board, userIds);
        // Whoever's total has changed is on the board of a day that has changed.
        const totals = isDay ? await Promise.all(userIds.map(source.user)) : [];
        const indices = Map.groupBy(userIds.keys(), (index) => shardOf(userIds[index] ?? "", shards));
        const written = [...indices].map(async ([shard, ofShard]) => {
          const users = ofShard.map((index) => ({ userId: userIds[index] ?? "", ...(places[index] ?? NOTHING) }));
          sums[shard] = users.reduce(add, sums[shard] ?? NOTHING);
          const candidates = first[shard] ?? [];
          candidates.push(...users);
          if (candidates.length > 4 * MAX_TOP) first[shard] = firstOf(candidates);
          const { board: boardKey, user } = keys[shard] as (typeof keys)[0];
          const fields = users.flatMap((each) => [each.userId, inWords(each)]);
          const ownTotals = isDay ? ofShard.map((index) => totalOf(user(userIds[index] ?? ""), totals[index])) : [];
          await write(shard, [["HSET", boardKey(board), ...fields], ...ownTotals]);
        });
        await Promise.all(written);
      }
    }
    for (const [shard, { top, board: key, days }] of keys.entries()) {
      const commands: (string | number)[][] = [["DEL", top(board)]];
      const ranked = () => firstOf(first[shard] ?? []).flatMap(({ userId, cents }) => [`-${cents}`, userId]);
      if ((await cluster.hlen(key(board))) > MAX_TOP) commands.push(["ZADD", top(board), ...ranked()]);
      if (isDay && sums[shard]?.orders) commands.push(["HSET", days, board, inWords(sums[shard])]);
      await write(shard, commands);
    }
  }

  /** From here on the source counts nothing, whoever asks. */
  async function closeSource() {
    for (const { ids, claims } of prefixesOf(Number.parseInt(before, 10)).map(keysOf))
      for (const list of [ids, claims])
        if (!(await from.get(list))?.includes("closed")) await from.append(list, " closed");
    // Before the last copy: a master that dies must not leave one that still counts.
    if (inPlace) await settled(prefixesOf(Number.parseInt(before, 10)));
  }

  /** What remembers order ids, and what there is to look at, under the same names; each key with what is left of its time. */
  async function copyMarkers() {
    /** A prefix for each slot that has some. */
    const bySlot = new Map<number, string>();
    for (const match of ["orders:ids*", "orders:recent:*"]) {
      for await (const found of serversOf(from, match)) {
        for (let at = 0; at < found.length; at += KEYS) await Promise.all(found.slice(at, at + KEYS).map(copyKey));
        for (const key of found) bySlot.set(calculateSlot(key), `{${key}}`);
      }
    }
    await settled([...bySlot.values()]);
  }

  async function copyKey(key: string) {
    const [value, left] = await Promise.all([from.dumpBuffer(key), from.pttl(key)]);
    if (value) await cluster.restore(key, Math.max(left, 0), value, "REPLACE");
  }

  /** The total of each shard is that of its days; all together must be that of the source. */
  async function writeTotals() {
    let all = NOTHING;
    for (const [shard, { global, days }] of keys.entries()) {
      const total = (await cluster.hvals(days)).map(toTotals).reduce(add, NOTHING);
      all = add(all, total);
      await write(shard, [["HSET", global, "total_orders", total.orders, "total_revenue", decimal(total.cents)]]);
    }
    const expected = inWords(await source.global());
    if (inWords(all) === expected) return;
    throw new Error(`The copy adds up to ${inWords(all)} orders and cents instead of ${expected}; nothing is opened`);
  }

  /** Each shard begins a layer of order ids of its own; those of the source are looked up besides, as long as they matter. */
  async function open() {
    const now = Math.floor(Date.now() / 1000);
    for (const [shard, { ids, global }] of keys.entries()) {
      if (!(await cluster.get(ids))?.startsWith("closed")) continue;
      const orders = (await cluster.hget(global, "total_orders")) ?? 0;
      await write(shard, [["SET", ids, `1 64 ${orders} ${now}`]]);
    }
    const [last, ...others] = before.split(" ");
    if (!(await cluster.get(LAYOUTS_KEY))?.startsWith(`${shards} `))
      await turn.write(["SET", LAYOUTS_KEY, [shards, `${last}@${now}`, ...others].join(" ")]);
    await settled([...prefixes, LAYOUTS_SLOT]);
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

/** A prefix that lies where the layouts do. */
const LAYOUTS_SLOT = `{${LAYOUTS_KEY}}`;

/**
 * Waits until no other move runs, and makes this one the owner of the move. The lock is only so that moves wait for each
 * other: what keeps one that was stopped for a while from undoing another's work is that it is no owner any more.
 */
async function takeTurn(cluster: Cluster, say: MoveParts["say"]) {
  const id = crypto.randomUUID();
  for (let waiting = false; (await cluster.turn(LOCK_KEY, MOVE_KEY, id, LOCK_MS)) === 0; waiting = true) {
    if (!waiting) say("Waits for another move to end, or for the lock of one that was stopped");
    await Bun.sleep(LOCK_MS / 10);
  }
  const write = (...commands: string[][]) => cluster.fenced(MOVE_KEY, id, JSON.stringify(commands));
  const renew = () => write(["PEXPIRE", LOCK_KEY, `${LOCK_MS}`]);
  // What it says against it the next write says too.
  const renewing = setInterval(() => void renew().catch(() => {}), LOCK_MS / 6);

  async function end() {
    clearInterval(renewing);
    await cluster.turn(LOCK_KEY, MOVE_KEY, id, 0).catch(() => {});
  }

  return { id, write, end };
}

async function* serversOf(redis: Connection, match: string): AsyncGenerator<string[]> {
  const servers = "nodes" in redis ? redis.nodes("master") : [redis];
  for (const server of servers) yield* scan(server, match);
}

const totalOf = (key: string, { orders, cents }: Totals = NOTHING) => [
  "HSET",
  key,
  "order_count",
  orders,
  "total_spend",
  decimal(cents),
];

const firstOf = (users: UserTotals[]) => users.toSorted(bySpend).slice(0, MAX_TOP);

const decimal = (cents: number) => `${Math.floor(cents / 100)}.${`${cents % 100}`.padStart(2, "0")}`;

function toTotals(text: string): Totals {
  const [orders, cents] = text.split(" ").map(Number);
  return { orders: orders ?? 0, cents: cents ?? 0 };
}
