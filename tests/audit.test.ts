import { Database } from "bun:sqlite";
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { Redis } from "ioredis";
import { generate } from "../scripts/generator.ts";
import { type Audit, auditStore } from "../store/audit.ts";
import { daysBetween } from "../store/periods.ts";
import { openRedisStore } from "../store/redis.ts";
import { openSqliteStore } from "../store/sqlite.ts";
import type { FullStore, Order } from "../store/store.ts";
import { order } from "./support/orders.ts";
import { temporaryFolder } from "./support/program.ts";
import { type RedisServer, startRedisServer } from "./support/redis-server.ts";

// Real processes on a busy machine: bun's five seconds would fail a test that is only slow.
setDefaultTimeout(60_000);

const ROOT = join(import.meta.dir, "..");
/** Across a new year, and in weeks of other years than their days. */
const FIRST = { id: "first", userId: "U1", cents: 1999, day: "2024-12-30" };
const KNOWN = [FIRST, order({ userId: "U1", cents: 5, day: "2025-01-01" }), order({ userId: "U2", day: FIRST.day })];

let redisServer: RedisServer;
beforeAll(async () => {
  redisServer = await startRedisServer();
});
afterAll(() => redisServer.stop());

/** Changes of the stored numbers past the store. Orders and cents are added to those that are there. */
interface Corruptor {
  user(userId: string, orders: number, cents: number): Promise<unknown>;
  global(orders: number, cents: number): Promise<unknown>;
  day(day: string, orders: number, cents: number): Promise<unknown>;
  entry(leaderboard: string, userId: string, orders: number, cents: number): Promise<unknown>;
  removeEntry(leaderboard: string, userId: string): Promise<unknown>;
  drop(leaderboard: string): Promise<unknown>;
}

interface Prepared extends AsyncDisposable {
  store: FullStore;
  env: Record<string, string>;
  corrupt: Corruptor;
}

async function prepareRedis(): Promise<Prepared & { redis: Redis; boardKey: (name: string) => Promise<string> }> {
  const url = redisServer.freshUrl();
  const redis = new Redis(url);
  const store = await openRedisStore({ url });
  // A leaderboard that does not exist yet has a key like the others.
  const boardKey = async (name: string) => {
    const [known = ""] = await redis.keys("*board:y:*");
    return known.replace(/y:.*/, name);
  };
  async function addAmount(key: string, [count, amount]: [string, string], orders: number, cents: number) {
    const stored = Math.round(Number((await redis.hget(key, amount)) ?? 0) * 100);
    await redis.hincrby(key, count, orders);
    await redis.hset(key, amount, ((stored + cents) / 100).toFixed(2));
  }
  async function addSums(key: string, field: string, orders: number, cents: number) {
    const stored = ((await redis.hget(key, field)) ?? "0 0").split(" ").map(Number) as [number, number];
    await redis.hset(key, field, `${stored[0] + orders} ${stored[1] + cents}`);
  }
  const corrupt: Corruptor = {
    user: (userId, ...more) => addAmount(`user:${userId}`, ["order_count", "total_spend"], ...more),
    global: (...more) => addAmount("global:stats", ["total_orders", "total_revenue"], ...more),
    async day(day, orders, cents) {
      const [key = ""] = await redis.keys("*days");
      await addSums(key, `d:${day}`, orders, cents);
    },
    async entry(board, userId, orders, cents) {
      await addSums(await boardKey(board), userId, orders, cents);
    },
    async removeEntry(board, userId) {
      await redis.hdel(await boardKey(board), userId);
    },
    async drop(board) {
      await redis.del(await boardKey(board));
    },
  };
  const dispose = async () => {
    redis.disconnect();
    await store.close();
  };
  return { store, env: { REDIS_URL: url }, corrupt, redis, boardKey, [Symbol.asyncDispose]: dispose };
}

async function prepareSqlite(): Promise<Prepared> {
  const dir = temporaryFolder();
  const path = join(dir, "orders.db");
  const store = openSqliteStore(path);
  const db = new Database(path);
  const run = async (sql: string, ...values: (string | number)[]) => db.run(sql, values);
  const add = "ON CONFLICT DO UPDATE SET orders = orders + excluded.orders, cents = cents + excluded.cents";
  const corrupt: Corruptor = {
    user: (...row) => run(`INSERT INTO users VALUES (?, ?, ?) ${add}`, ...row),
    global: (...row) => run(`INSERT INTO totals VALUES ('', ?, ?) ${add}`, ...row),
    day: (...row) => run(`INSERT INTO totals VALUES (?, ?, ?) ${add}`, ...row),
    entry: (...row) => run(`INSERT INTO boards VALUES (?, ?, ?, ?, 1) ${add}`, ...row),
    removeEntry: (...entry) => run("DELETE FROM boards WHERE board = ? AND user_id = ?", ...entry),
    drop: (board) => run("DELETE FROM boards WHERE board = ?", board),
  };
  const dispose = async () => {
    db.close();
    await store.close();
  };
  return { store, env: { DATA_DIR: dir }, corrupt, [Symbol.asyncDispose]: dispose };
}

const PREPARE: Record<string, () => Promise<Prepared>> = { redis: prepareRedis, sqlite: prepareSqlite };

function generated(count: number): Order[] {
  const mix = { mismatch: 5, invalid: 0, duplicates: 0, onValueMismatch: "correct" as const };
  const nowMs = Date.parse("2026-02-03T12:00:00Z");
  const messages = generate({ ...mix, seed: 7, users: 2500, days: 500, nowMs }).take(count);
  return messages.map(({ orderId, ...message }) => ({ ...message, id: orderId })).toArray();
}

async function recordAll(store: FullStore, orders: Order[]) {
  for (let at = 0; at < orders.length; at += 100) await store.record(orders.slice(at, at + 100));
}

async function run(env: Record<string, string>, ...args: string[]) {
  const command = [process.execPath, "scripts/audit.ts", ...args];
  const child = Bun.spawn(command, { cwd: ROOT, env, stdout: "pipe", stderr: "pipe" });
  const [exitCode, stdout, stderr] = await Promise.all([child.exited, child.stdout.text(), child.stderr.text()]);
  return { exitCode, stdout, stderr };
}

const sorted = ({ differences }: Audit) => differences.toSorted((a, b) => (a.what < b.what ? -1 : 1));

/** Each change, and what the audit finds then. */
const CORRUPTIONS: Record<string, [(corrupt: Corruptor) => Promise<unknown>, Record<string, string>]> = {
  "a user's cents": [
    ({ user }) => user("U1", 0, 1),
    { "user U1": "2 orders, 20.05", "sum of the users": "3 orders, 30.05" },
  ],
  "a user's count": [
    ({ user }) => user("U2", -1, 0),
    { "user U2": "0 orders, 10.00", "sum of the users": "2 orders, 30.04" },
  ],
  "the total": [
    ({ global }) => global(1, 0),
    { "sum of the days": "3 orders, 30.04", "sum of the users": "3 orders, 30.04" },
  ],
  "the total, in cents": [
    ({ global }) => global(0, -1),
    { "sum of the days": "3 orders, 30.04", "sum of the users": "3 orders, 30.04" },
  ],
  "a day": [
    ({ day }) => day("2025-01-01", 0, 1),
    {
      "sum of the days": "3 orders, 30.05",
      ...{ "leaderboard d:2025-01-01": "1 order, 0.05", "leaderboard w:2025-W01": "3 orders, 30.04" },
      ...{ "leaderboard m:2025-01": "1 order, 0.05", "leaderboard y:2025": "1 order, 0.05" },
    },
  ],
  "a day that is no date": [
    ({ day }) => day("2025-02-29", 1, 5),
    { "day 2025-02-29": "none", "sum of the days": "4 orders, 30.09" },
  ],
  "a spend on a leaderboard": [
    ({ entry }) => entry("d:2025-01-01", "U1", 0, 1),
    { "leaderboard d:2025-01-01": "1 order, 0.06" },
  ],
  "a count on a leaderboard": [
    ({ entry }) => entry("m:2024-12", "U2", 1, 0),
    { "leaderboard m:2024-12": "3 orders, 29.99" },
  ],
  "a count on a year leaderboard": [
    ({ entry }) => entry("y:2024", "U2", 1, 0),
    { "leaderboard y:2024": "3 orders, 29.99", "user U2": "1 order, 10.00" },
  ],
  "cents moved between two users of a year": [
    async ({ entry }) => [await entry("y:2024", "U1", 0, 1), await entry("y:2024", "U2", 0, -1)],
    { "user U1": "2 orders, 20.04", "user U2": "1 order, 10.00" },
  ],
  "a count of zero on a leaderboard": [
    ({ entry }) => entry("w:2025-W01", "U3", 0, 0),
    { "users without orders on leaderboard w:2025-W01": "1" },
  ],
  "a user missing from a leaderboard": [
    ({ removeEntry }) => removeEntry("w:2025-W01", "U2"),
    { "leaderboard w:2025-W01": "2 orders, 20.04" },
  ],
  "a user missing from a year leaderboard": [
    ({ removeEntry }) => removeEntry("y:2024", "U2"),
    { "leaderboard y:2024": "1 order, 19.99", "user U2": "1 order, 10.00", "sum of the users": "2 orders, 20.04" },
  ],
  "an extra leaderboard": [
    ({ entry }) => entry("d:2030-01-01", "U1", 1, 5),
    { "leaderboard d:2030-01-01": "1 order, 0.05" },
  ],
  "an extra year leaderboard": [
    ({ entry }) => entry("y:2030", "U1", 1, 5),
    { "leaderboard y:2030": "1 order, 0.05", "user U1": "2 orders, 20.04" },
  ],
  "a missing leaderboard": [({ drop }) => drop("m:2025-01"), { "leaderboard m:2025-01": "0 orders, 0.00" }],
  "an extra user": [({ user }) => user("U0", 1, 5), { "user U0": "1 order, 0.05" }],
  "an extra user on a year leaderboard": [
    ({ entry }) => entry("y:2025", "U0", 1, 5),
    {
      ...{ "leaderboard y:2025": "2 orders, 0.10", "user U0": "0 orders, 0.00" },
      "users missing from the list of users": "1",
    },
  ],
};

describe.each(Object.keys(PREPARE))("%s", (kind) => {
  const prepare = PREPARE[kind] as () => Promise<Prepared>;

  test("a store of thousands of orders agrees, and each order was read on four leaderboards", async () => {
    await using prepared = await prepare();
    const orders = generated(4000);
    await recordAll(prepared.store, orders);
    let read = 0;
    const audit = await auditStore(prepared.store, (orders) => {
      read += orders;
    });
    const unique = (of: (order: Order) => string) => new Set(orders.map(of)).size;
    const counts = { users: unique(({ userId }) => userId), days: unique(({ day }) => day) };
    const totals = { orders: 4000, cents: orders.reduce((sum, { cents }) => sum + cents, 0) };
    expect(audit).toEqual({ ...totals, ...counts, boards: expect.any(Number), moved: false, differences: [] });
    expect(counts.users).toBeGreaterThan(1000); // more than a page
    expect(read).toBe(4 * 4000);
  });

  test("users that do not fit in memory at once are audited in parts, with the same result", async () => {
    await using prepared = await prepare();
    await recordAll(prepared.store, generated(1000));
    await prepared.corrupt.user("extra", 1, 5);
    await prepared.corrupt.entry("y:2025", "other", 1, 5);
    const whole = await auditStore(prepared.store, () => {});
    expect(whole.users).toBeGreaterThan(500);
    const what = whole.differences.map((each) => each.what);
    expect(what).toEqual(expect.arrayContaining(["user extra", "user other", "leaderboard y:2025"]));
    for (const usersAtOnce of [1, 7, 100]) {
      const inParts = await auditStore(prepared.store, () => {}, usersAtOnce);
      expect({ ...inParts, differences: sorted(inParts) }).toEqual({ ...whole, differences: sorted(whole) });
    }
  });

  test("thousands of users in thousands of years are not users times years", async () => {
    await using prepared = await prepare();
    const sparse = Array.from({ length: 2500 }, (_, index) =>
      order({ userId: `U${index}`, day: `${String(1 + index * 3).padStart(4, "0")}-06-15` }),
    );
    await recordAll(prepared.store, sparse);
    const startedMs = performance.now();
    const { users, days, differences } = await auditStore(prepared.store, () => {});
    expect({ users, days, differences }).toEqual({ users: 2500, days: 2500, differences: [] });
    expect(performance.now() - startedMs).toBeLessThan(5_000);
  });

  test("an empty store agrees", async () => {
    await using prepared = await prepare();
    const nothing = { users: 0, days: 0, boards: 0, orders: 0, cents: 0, moved: false, differences: [] };
    expect(await auditStore(prepared.store, () => {})).toEqual(nothing);
  });

  test.each(Object.keys(CORRUPTIONS))("it finds and names %s", async (name) => {
    const [corrupt, expected] = CORRUPTIONS[name] as NonNullable<(typeof CORRUPTIONS)[string]>;
    await using prepared = await prepare();
    await recordAll(prepared.store, KNOWN);
    await corrupt(prepared.corrupt);
    const { differences } = await auditStore(prepared.store, () => {});
    const found = differences.map(({ what, found }) => [what, found]);
    expect(Object.fromEntries(found)).toEqual(expected);
    for (const { expected, found } of differences) expect(expected).not.toBe(found);
  });

  test("recent orders and the list of users are no part of the sums", async () => {
    await using prepared = await prepare();
    await recordAll(prepared.store, KNOWN);
    const before = await auditStore(prepared.store, () => {});
    await prepared.store.addRecent([{ outcome: "duplicate", atMs: 1, messageId: "m", orderId: "first", userId: "U1" }]);
    expect(await auditStore(prepared.store, () => {})).toEqual(before);
    expect(before.differences).toEqual([]);
  });

  test("at most twenty differences are reported", async () => {
    await using prepared = await prepare();
    await recordAll(prepared.store, generated(200));
    await prepared.corrupt.drop("y:2025");
    expect((await auditStore(prepared.store, () => {})).differences).toHaveLength(20);
  });

  test("the command exits with 0 and a summary if the sums agree, with 1 and the differences if not", async () => {
    await using prepared = await prepare();
    await recordAll(prepared.store, KNOWN);
    const summary = "2 users, 2 days, 7 leaderboards, 3 orders, 30.04 in ";
    const good = await run(prepared.env);
    expect([good.exitCode, good.stderr]).toEqual([0, expect.stringMatching(/^\d+ of 12 entries on leaderboards /)]);
    expect(good.stdout).toStartWith(`The sums agree: ${summary}`);
    const { exitCode, stdout } = await run(prepared.env, "--json");
    const read = { users: 2, days: 2, leaderboards: 7, orders: 3, revenue: 30.04, seconds: expect.any(Number) };
    expect([exitCode, JSON.parse(stdout)]).toEqual([0, { agrees: true, ...read, differences: [] }]);
    await prepared.corrupt.user("U1", 0, 1);
    const bad = await run(prepared.env);
    expect(bad.exitCode).toBe(1);
    expect(bad.stdout).toStartWith(`The sums differ: ${summary}`);
    expect(bad.stdout).toContain("\n  user U1: expected 2 orders, 20.04; found 2 orders, 20.05\n");
    const json = await run(prepared.env, "--json");
    const { agrees, differences } = JSON.parse(json.stdout);
    expect([json.exitCode, agrees, differences.length]).toEqual([1, false, 2]);
  });

  test("reports that orders were counted during the audit", async () => {
    await using prepared = await prepare();
    await recordAll(prepared.store, KNOWN);
    const counting: Promise<unknown>[] = [];
    const { moved } = await auditStore(prepared.store, () => {
      counting.push(prepared.store.record([order()]));
    });
    await Promise.all(counting);
    expect(moved).toBeTrue();
    expect(await auditStore(prepared.store, () => {})).toMatchObject({ moved: false, differences: [] });
  });
});

describe("redis", () => {
  const CROWD = Array.from({ length: 1200 }, (_, index) => order({ userId: `U${index}`, cents: 2000 - index }));

  test("the first users of a leaderboard too large to be ranked when read are audited", async () => {
    await using prepared = await prepareRedis();
    await recordAll(prepared.store, CROWD);
    expect((await auditStore(prepared.store, () => {})).differences).toEqual([]);
  });

  test.each<[string, (redis: Redis, top: string) => Promise<unknown>, string]>([
    ["missing", (redis, top) => redis.zrem(top, "U999"), "rank 1000 of leaderboard m:2024-12"],
    ["misplaced", (redis, top) => redis.zadd(top, -1005, "U997"), "rank 997 of leaderboard m:2024-12"],
    ["of another spend", (redis, top) => redis.zadd(top, -9999, "U0"), "rank 1 of leaderboard m:2024-12"],
    ["all missing", (redis, top) => redis.del(top), "rank 1 of leaderboard m:2024-12"],
  ])("it finds first users that are %s", async (_, corrupt, what) => {
    await using prepared = await prepareRedis();
    await recordAll(prepared.store, CROWD);
    await corrupt(prepared.redis, "orders:top:m:2024-12");
    const { differences } = await auditStore(prepared.store, () => {});
    expect(differences[0]?.what).toBe(what);
    for (const { what } of differences) expect(what).toContain("of leaderboard m:2024-12");
  });
});

describe("the command", () => {
  test("exits with 3 while orders are being counted, and with 0 afterwards", async () => {
    await using prepared = await prepareRedis();
    // So many leaderboards that an order is counted during each attempt, even if this process has to wait for a CPU.
    const days = daysBetween("2018-01-01", "2023-12-31");
    await recordAll(
      prepared.store,
      days.map((day) => order({ day })),
    );
    const running = run(prepared.env);
    let ended = false;
    void running.then(() => {
      ended = true;
    });
    while (!ended) {
      await prepared.store.record([order()]);
      await Bun.sleep(1);
    }
    const stderr = expect.stringMatching(/\nOrders are being counted: run the audit again when the queue is empty\n$/);
    expect(await running).toEqual({ exitCode: 3, stdout: "", stderr });
    expect((await run(prepared.env)).exitCode).toBe(0);
  });

  test("a missing SQLite file is an error, and is not created", async () => {
    const dir = join(temporaryFolder(), "none");
    const { exitCode, stdout, stderr } = await run({ DATA_DIR: dir });
    expect([exitCode, stdout]).toEqual([1, ""]);
    expect(stderr).toBe(`There is no store at ${join(dir, "orders.db")}: check DATA_DIR and REDIS_URL\n`);
    expect(await Bun.file(join(dir, "orders.db")).exists()).toBeFalse();
  });

  test("a Redis that cannot be reached is an error", async () => {
    const { exitCode, stderr } = await run({ REDIS_URL: "redis://127.0.0.1:1" });
    expect([exitCode, stderr]).toEqual([1, expect.stringContaining("Cannot reach Redis at redis://127.0.0.1:1")]);
  });
});
