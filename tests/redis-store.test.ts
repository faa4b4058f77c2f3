import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";
import { Redis } from "ioredis";
import { auditStore, repairTotal } from "../store/audit.ts";
import { createDataLoss } from "../store/data-loss.ts";
import { openStore } from "../store/open.ts";
import { type FullStore, MAX_RECENT, MAX_TOTAL_CENTS, LONGEST_WINDOW_SECONDS as WINDOW } from "../store/store.ts";
import { logLines } from "./support/log-lines.ts";
import { duplicate, duplicateEntry, order } from "./support/orders.ts";
import { type RedisServer, startRedisServer } from "./support/redis-server.ts";
import { waitFor } from "./support/wait-for.ts";

// Real processes on a busy machine: bun's five seconds would fail a test that is only slow.
setDefaultTimeout(60_000);

let redisServer: RedisServer;
beforeAll(async () => {
  redisServer = await startRedisServer();
});
afterAll(() => redisServer.stop());

/** A store on a fresh database of the shared server, or on a server of the test's own, and a client beside it. */
async function open({ own = false } = {}) {
  await using parts = new AsyncDisposableStack();
  const server = own ? await startRedisServer() : redisServer;
  if (own) parts.defer(server.stop);
  const url = server.freshUrl();
  const redis = new Redis(url);
  redis.on("error", () => {});
  parts.defer(() => redis.disconnect());
  const store = await openStore({ kind: "redis", url, windowSeconds: WINDOW });
  parts.defer(() => store.close());
  const opened = parts.move();
  return { store, redis, url, server, [Symbol.asyncDispose]: () => opened.disposeAsync() };
}

const findings = async (store: FullStore) => (await auditStore(store, () => {})).differences;
const succeeds = (call: Promise<unknown>) =>
  call.then(
    () => true,
    () => false,
  );

test("the two public hashes hold counts and decimal text", async () => {
  await using opened = await open();
  const { store, redis } = opened;
  await store.record([order({ cents: 320_070, userId: "U5678" }), order({ cents: 5, userId: "U5678" })]);
  expect(await redis.hgetall("user:U5678")).toEqual({ order_count: "2", total_spend: "3200.75" });
  expect(await redis.hgetall("global:stats")).toEqual({ total_orders: "2", total_revenue: "3200.75" });
});

describe("markers", () => {
  /** The generations as the store lists them, and a way to set them back in time. */
  async function generationsOf(redis: Redis) {
    const text = (await redis.hget("orders:store", "generations")) ?? "";
    const words = text.split(" ").map(Number);
    const list = Array.from({ length: words.length / 5 }, (_, index) => words.slice(index * 5, index * 5 + 5));
    const age = (seconds: number) =>
      redis.hset(
        "orders:store",
        "generations",
        list.map(([a, b, c, at = 0, left]) => `${a} ${b} ${c} ${at - seconds} ${left}`).join(" "),
      );
    return { numbers: list.map(([number]) => number), hashes: list.map(([, hashes]) => hashes), age };
  }

  test("no key expires but that of the check", async () => {
    await using opened = await open();
    await opened.store.record([order(), order()]);
    await opened.store.check();
    for (const key of await opened.redis.keys("*"))
      if (key !== "orders:check") expect([key, await opened.redis.ttl(key)]).toEqual([key, -1]);
  });

  test("an order id is known until a whole window after its generation has ended", async () => {
    await using opened = await open();
    const { store, redis } = opened;
    const [old, next] = [order(), order()];
    await store.record([old]);
    await (await generationsOf(redis)).age(WINDOW);
    expect(await store.record([old, next])).toEqual(["duplicate", "recorded"]);
    expect((await generationsOf(redis)).numbers).toEqual([1, 2]);
    await (await generationsOf(redis)).age(WINDOW - 5);
    expect(await store.record([old, next])).toEqual(["duplicate", "duplicate"]);
    expect(await Promise.all([old, next].map(({ id }) => store.isCounted(id)))).toEqual([true, true]);
    // Now the first generation ended a window ago.
    await (await generationsOf(redis)).age(5);
    expect(await store.record([next, order()])).toEqual(["duplicate", "recorded"]);
    expect((await generationsOf(redis)).numbers).toEqual([1, 2, 3]);
    expect(await store.record([old])).toEqual(["recorded"]);
  });

  test("an expired generation is removed by name, a few hashes with each batch, and nothing else is", async () => {
    await using opened = await open();
    const { store, redis } = opened;
    const old = Array.from({ length: 1000 }, () => order());
    await store.record(old);
    await (await generationsOf(redis)).age(WINDOW);
    const kept = Array.from({ length: 200 }, () => order());
    await store.record(kept);
    await (await generationsOf(redis)).age(WINDOW);
    const left = async () => (await redis.keys("orders:ids:1:*")).length;
    const before = await left();
    await store.record([order()]);
    expect(await left()).toBeWithin(before - 32, before + 1);
    // As many batches as there are hashes, 32 at a time.
    for (let batch = 0; batch < 131_072 / 32; batch++) await store.record([order()]);
    expect(await left()).toBe(0);
    expect((await generationsOf(redis)).numbers).toEqual([2, 3]);
    expect(await store.record(kept)).toEqual(Array(200).fill("duplicate"));
  });

  test("a clock that jumps ahead expires no generation, and a window that grows makes one readable again", async () => {
    await using opened = await open({ own: true });
    const { store, redis } = opened;
    const old = Array.from({ length: 500 }, () => order());
    await store.record(old);
    await (await generationsOf(redis)).age(WINDOW);
    await store.record([order()]);
    // The last batch was 40 days ago, as Redis sees it.
    await (await generationsOf(redis)).age(40 * 86_400);
    await redis.hincrby("orders:store", "seen_at", -40 * 86_400);
    expect(await store.record(old)).toEqual(Array(500).fill("duplicate"));
    // Now it does expire, and a part of it is deleted.
    await (await generationsOf(redis)).age(WINDOW);
    await store.record([order()]);
    await redis.hset("orders:store", "window_seconds", 3 * WINDOW);
    const again = await store.record(old);
    expect(again.filter((result) => result === "recorded").length).toBeLessThan(10);
  });

  test("a generation that is full is followed by a larger one; small hashes, and every id stays known", async () => {
    await using opened = await open();
    const { store, redis } = opened;
    const orders = Array.from({ length: 3000 }, () => order());
    await store.record(orders.slice(0, 1000));
    await redis.hset("global:stats", "total_orders", 131_072 * 96);
    await store.record(orders.slice(1000, 2000));
    await store.record(orders.slice(2000, 3000));
    expect((await generationsOf(redis)).hashes).toEqual([131_072, 8 * 131_072]);
    for (const key of (await redis.keys("orders:ids:*")).slice(0, 50))
      expect(await redis.object("ENCODING", key)).toBe("listpack");
    for (let at = 0; at < 3000; at += 1000)
      expect(await store.record(orders.slice(at, at + 1000))).toEqual(Array(1000).fill("duplicate"));
    expect(await store.isCounted(orders[0]?.id ?? "")).toBeTrue();
    expect(await store.isCounted(order().id)).toBeFalse();
  });

  test("a generation is as large as the window before needed", async () => {
    await using opened = await open();
    const { store, redis } = opened;
    await store.record([order()]);
    await redis.hset("global:stats", "total_orders", 10_000_000);
    await (await generationsOf(redis)).age(WINDOW);
    await store.record([order()]);
    expect((await generationsOf(redis)).hashes).toEqual([131_072, Math.ceil((2 * 10_000_000) / 96)]);
  });

  test("under a volatile-* eviction policy no marker is evicted: a full Redis refuses orders", async () => {
    await using opened = await open({ own: true });
    const { store, redis } = opened;
    const used = Number((await redis.info("memory")).match(/used_memory:(\d+)/)?.[1]);
    await redis.config("SET", "maxmemory-policy", "volatile-lru");
    await redis.config("SET", "maxmemory", used + 3_000_000);
    const counted: ReturnType<typeof order>[] = [];
    for (let full = false; !full; ) {
      const batch = Array.from({ length: 500 }, () => order());
      full = !(await succeeds(store.record(batch)));
      if (!full) counted.push(...batch);
    }
    await redis.config("SET", "maxmemory", 0);
    expect(counted.length).toBeGreaterThan(1_000);
    for (let at = 0; at < counted.length; at += 500)
      expect(await store.record(counted.slice(at, at + 500))).toEqual(Array(500).fill("duplicate"));
  });
});

test("no more than the first thousand of a leaderboard are kept in order", async () => {
  await using opened = await open();
  for (let batch = 0; batch < 3; batch++)
    await opened.store.record(
      Array.from({ length: 600 }, (_, index) => order({ userId: `U${batch}-${index}`, cents: batch })),
    );
  expect(await opened.redis.zcard("orders:top:y:2024")).toBe(1000);
  expect(await opened.redis.hlen("orders:board:y:2024")).toBe(1800);
});

test("record() refuses more than 1000 orders at once, and counts none", async () => {
  await using opened = await open();
  const orders = Array.from({ length: 1001 }, () => order());
  await expect(opened.store.record(orders)).rejects.toThrow("at most 1000 orders");
  expect(await opened.store.global()).toEqual({ orders: 0, cents: 0 });
});

describe("keys of another program", () => {
  test.each([
    ["a count that is no number", ["HSET", "global:stats", "total_orders", "many"]],
    ["a leaderboard of another type", ["SET", "orders:board:y:2024", "x"]],
    ["a leaderboard with what is not orders and cents", ["HSET", "orders:board:m:2024-12", "U2", "12"]],
    ["a list of generations of another type", ["SET", "orders:store", "x"]],
    ["a list of users of another type", ["SET", "orders:users", "x"]],
    ["days of another type", ["SET", "orders:days", "x"]],
  ])("record() writes nothing where Redis holds %s", async (_, [name = "", ...args]) => {
    await using opened = await open();
    const { store, redis } = opened;
    await redis.call(name, ...args);
    const before = (await redis.keys("*")).sort();
    await expect(store.record([order({ userId: "U1" }), order({ userId: "U2" })])).rejects.toThrow();
    expect((await redis.keys("*")).sort()).toEqual(before);
  });

  test("record() writes nothing where the first users of a leaderboard are of another type, once they are kept", async () => {
    await using opened = await open();
    const { store, redis } = opened;
    const orders = Array.from({ length: 1000 }, (_, index) => order({ userId: `U${index}` }));
    await store.record(orders);
    await redis.set("orders:top:w:2024-W50", "x");
    await expect(store.record([order({ userId: "another" })])).rejects.toThrow("WRONGTYPE");
    expect(await redis.exists("user:another")).toBe(0);
    expect(await store.global()).toMatchObject({ orders: 1000 });
  });

  test.each([
    ["a string", ["SET", "user:U2", "somebody else's"]],
    ["a hash with other fields", ["HSET", "user:U2", "name", "Ann"]],
    ["a list", ["RPUSH", "user:U2", "x"]],
    ["a count that is no number", ["HSET", "user:U2", "order_count", "nan", "total_spend", "1.00"]],
    ["an amount that is no amount", ["HSET", "user:U2", "order_count", "1", "total_spend", "1e3"]],
    ["one field of ours only", ["HSET", "user:U2", "order_count", "1"]],
  ])(
    "%s at user:U2 refuses orders of U2 and nobody else's; the audit names the key and goes on",
    async (_, [name = "", ...args]) => {
      await using opened = await open();
      const { store, redis } = opened;
      await redis.call(name, ...args);
      const held = await redis.dump("user:U2");
      const [mine, theirs, mineToo] = [order({ userId: "U1" }), order({ userId: "U2" }), order({ userId: "U3" })];
      expect(await store.record([mine, theirs, mineToo])).toEqual(["recorded", "refused", "recorded"]);
      expect(await store.isCounted(theirs.id)).toBeFalse();
      await store.check();
      expect(await store.global()).toEqual({ orders: 2, cents: 2000 });
      expect(await redis.dump("user:U2")).toBe(held as string);
      expect((await findings(store)).map(({ what }) => what)).toEqual(["user U2"]);
      await redis.del("user:U2");
      expect(await store.record([mine, theirs])).toEqual(["duplicate", "recorded"]);
      expect(await findings(store)).toEqual([]);
    },
  );

  test("user() names the key that is not ours, and reads the others of its batch", async () => {
    await using opened = await open();
    await opened.store.record([order({ userId: "U1" })]);
    await opened.redis.set("user:U2", "x");
    await opened.redis.hset("user:U3", "name", "Ann");
    const read = (user: string) => opened.store.user(user).catch(String);
    const foreign = (user: string) => expect.stringContaining(`user:${user} in Redis holds data of another program`);
    expect(await Promise.all(["U1", "U2", "U3", "U4"].map(read))).toEqual([
      { orders: 1, cents: 1000 },
      foreign("U2"),
      foreign("U3"),
      { orders: 0, cents: 0 },
    ]);
  });

  test("a value that is not ours on a leaderboard does not stop a batch between its writes", async () => {
    await using opened = await open();
    const orders = Array.from({ length: 1000 }, (_, index) => order({ userId: `U${index}` }));
    await opened.store.record(orders.slice(0, 999));
    await opened.redis.hset("orders:board:y:2024", "other", "not amounts");
    // With this order the leaderboard has more than 1,000 users, and all of them are ranked.
    expect(await opened.store.record(orders.slice(999))).toEqual(["recorded"]);
    expect(await opened.store.global()).toEqual({ orders: 1000, cents: 1_000_000 });
    expect(await opened.store.user("U999")).toEqual({ orders: 1, cents: 1000 });
  });

  test("user() is read again by a Redis that has lost its scripts", async () => {
    await using opened = await open();
    await opened.store.record([order({ userId: "U1" })]);
    await opened.store.user("U1");
    await opened.redis.script("FLUSH");
    expect(await opened.store.user("U1")).toEqual({ orders: 1, cents: 1000 });
  });

  test.each([
    ["orders:days", ["days"]],
    ["orders:board:m:2024-12", ["leaderboard m:2024-12"]],
    ["orders:top:y:2024", ["leaderboard y:2024"]],
    ["orders:users", ["list of users"]],
    ["global:stats", ["total"]],
  ])("the audit names %s and goes on", async (key, expected) => {
    await using opened = await open();
    const { store, redis } = opened;
    await store.record(Array.from({ length: 1000 }, (_, index) => order({ userId: `U${index}` })));
    await store.record([order({ userId: "U1000" })]);
    await redis.del(key);
    await redis.set(key, "x");
    const found = await findings(store);
    expect(found.map(({ what }) => what)).toEqual(expect.arrayContaining(expected));
    expect(found.find(({ what }) => what === expected[0])?.found).toContain(`${key}`);
  });

  test("check() finds them among today's leaderboards, checkThoroughly() among all", async () => {
    await using opened = await open();
    const { store, redis } = opened;
    const today = new Date().toISOString().slice(0, 10);
    await store.record([order({ day: "2019-05-05" }), order({ day: today })]);
    for (const [key, finds] of [
      ["orders:days", store.check],
      [`orders:board:d:${today}`, store.check],
      ["orders:board:d:2019-05-05", store.checkThoroughly],
      ["orders:top:w:2019-W18", store.checkThoroughly],
    ] as const) {
      const held = await redis.dumpBuffer(key);
      await redis.del(key);
      await redis.set(key, "x");
      await expect(finds()).rejects.toThrow("WRONGTYPE");
      await redis.del(key);
      if (held) await redis.restore(key, 0, held);
      await store.checkThoroughly();
    }
  });
});

describe("rights", () => {
  const NEEDED =
    "hset hget hdel hmget hexists hlen hgetall hkeys hscan zadd zremrangebyrank zrange zcard unlink exists rpush lrange lpush ltrim llen set time evalsha";

  test.each(NEEDED.split(" "))(
    "without the right to %s check() rejects, and no order is marked without being counted",
    async (right) => {
      await using opened = await open({ own: true });
      const { redis, url } = opened;
      await redis.call("ACL", "SETUSER", "shop", "on", ">pw", "~*", "+@all", `-${right}`);
      const store = await openStore({ kind: "redis", url: url.replace("//", "//shop:pw@") });
      await expect(store.check()).rejects.toThrow(/needs the right to|NOPERM|can't run this command|not allowed/i);
      const orders = [order(), order({ userId: "U2" })];
      const recorded = await succeeds(store.record(orders));
      expect(await opened.store.global()).toEqual(recorded ? { orders: 2, cents: 2000 } : { orders: 0, cents: 0 });
      expect(await opened.store.isCounted(orders[0]?.id ?? "")).toBe(recorded);
      await store.close();
    },
  );

  test.each(["hset", "zadd", "rpush", "zremrangebyrank"])(
    "a right to %s that is taken away later counts nothing, and all once when it is back",
    async (right) => {
      await using opened = await open({ own: true });
      const { redis, url } = opened;
      await redis.call("ACL", "SETUSER", "shop", "on", ">pw", "~*", "+@all");
      const store = await openStore({ kind: "redis", url: url.replace("//", "//shop:pw@") });
      await store.check();
      await redis.call("ACL", "SETUSER", "shop", `-${right}`);
      const orders = [order(), order({ userId: "U2" })];
      await expect(store.record(orders)).rejects.toThrow(`needs the right to ${right.toUpperCase()}`);
      await redis.call("ACL", "SETUSER", "shop", "+@all");
      expect(await store.record(orders)).toEqual(["recorded", "recorded"]);
      expect(await store.global()).toEqual({ orders: 2, cents: 2000 });
      await store.close();
    },
  );

  test.each([
    ["the user keys", "%RW~orders:* %RW~global:* %R~user:*"],
    [
      "the leaderboards",
      "%RW~orders:ids* %RW~orders:check %RW~orders:store %RW~orders:days %R~orders:* %RW~global:* %RW~user:*",
    ],
    [
      "the markers",
      "%RW~orders:b* %RW~orders:top* %RW~orders:c* %RW~orders:store %RW~orders:d* %R~orders:* %RW~global:* %RW~user:*",
    ],
  ])("a Redis user who may not write %s counts nothing and is told", async (_, patterns) => {
    await using opened = await open({ own: true });
    const { redis, url } = opened;
    await redis.call("ACL", "SETUSER", "shop", "on", ">pw", "resetkeys", "+@all", ...patterns.split(" "));
    const store = await openStore({ kind: "redis", url: url.replace("//", "//shop:pw@") });
    await expect(store.check()).rejects.toThrow(/Redis does not accept orders: .*this needs the right to/);
    await expect(store.record([order()])).rejects.toThrow("this needs the right to");
    expect(await redis.dbsize()).toBe(0);
    await store.close();
  });

  test("a Redis user who may only read sees what is counted and recent", async () => {
    await using opened = await open({ own: true });
    const { store, redis, url } = opened;
    const counted = order();
    await store.record([counted]);
    await store.addRecent([duplicate("d")]);
    await redis.call("ACL", "SETUSER", "reader", "on", ">pw", "%R~*", "+@all", "-@write");
    const reader = await openStore({ kind: "redis", url: url.replace("//", "//reader:pw@") });
    expect(await reader.isCounted(counted.id)).toBeTrue();
    expect(await reader.recent("duplicate", 1)).toEqual([duplicate("d")]);
    expect(await reader.history("o")).toEqual({});
    expect(await reader.markerWindowSeconds()).toBe(WINDOW);
    await expect(reader.addRecent([duplicate("e")])).rejects.toThrow("NOPERM");
    await reader.close();
  });
});

describe("lost data", () => {
  test("an overall total that is lost is refused, and made again from the days", async () => {
    await using opened = await open();
    const { store, redis } = opened;
    const counted = order({ cents: 1999, day: "2024-12-14" });
    await store.record([order(), counted]);
    for (const lose of [() => redis.del("global:stats"), () => redis.hdel("global:stats", "total_revenue")]) {
      await lose();
      await expect(store.check()).rejects.toThrow("global:stats is lost: `bun scripts/audit.ts --repair` restores it");
      await expect(store.record([counted, order()])).rejects.toThrow("global:stats is lost");
      expect(await repairTotal(store)).toBeTrue();
      expect(await store.global()).toEqual({ orders: 2, cents: 2999 });
    }
    expect(await repairTotal(store)).toBeFalse();
    expect(await store.record([counted])).toEqual(["duplicate"]);
    expect(await findings(store)).toEqual([]);
  });

  test("a store that has lost the list of its markers takes no orders, rather than count old ones again", async () => {
    await using opened = await open();
    const { store, redis } = opened;
    const counted = order();
    await store.record([counted]);
    const held = await redis.hgetall("orders:store");
    await redis.del("orders:store");
    await expect(store.check()).rejects.toThrow("is lost: restore it, or begin with an empty Redis");
    await redis.del("global:stats");
    await expect(store.record([counted, order()])).rejects.toThrow("is lost: restore it");
    await redis.hset("orders:store", held);
    await repairTotal(store);
    expect(await store.record([counted])).toEqual(["duplicate"]);
  });

  test.each([
    ["FLUSHALL", async ({ redis }: { redis: Redis }) => void (await redis.flushdb())],
    [
      "a Redis restarted without its data",
      async ({ redis }: { redis: Redis }) => void (await redis.del("global:stats", "orders:store", "orders:days")),
    ],
    [
      "an older copy",
      async ({ redis }: { redis: Redis }) => void (await redis.hset("global:stats", "total_orders", "1")),
    ],
  ])("a total that decreased after %s is reported with both numbers until the end of the process", async (_, lose) => {
    await using opened = await open();
    const { log, events } = logLines();
    const dataLoss = createDataLoss({ store: opened.store, log });
    const inspect = async () => dataLoss.inspectTotal(await opened.store.global());
    await inspect();
    await opened.store.record([order(), order(), order()]);
    await inspect();
    expect([dataLoss.problems(), dataLoss.wentBack()]).toEqual([[], false]);
    await lose(opened);
    await inspect();
    await inspect();
    expect(events("store_went_back")).toEqual([{ orders_before: 3, orders_now: expect.any(Number) }]);
    expect(dataLoss.problems()).toEqual([expect.stringMatching(/^store: the total decreased from 3 orders to [01]: /)]);
    expect(dataLoss.wentBack()).toBeTrue();
  });

  test("keys that Redis evicts are reported once they are", async () => {
    await using opened = await open({ own: true });
    const { store, redis } = opened;
    const { log, events } = logLines();
    const dataLoss = createDataLoss({ store, log });
    await store.record(Array.from({ length: 1000 }, () => order()));
    await dataLoss.inspectEvictions();
    expect(dataLoss.problems()).toEqual([]);
    await redis.config("SET", "maxmemory-policy", "allkeys-random");
    await redis.config("SET", "maxmemory", 1_500_000);
    await waitFor("evictions", async () => Number(await store.evictedKeys()) > 0);
    await dataLoss.inspectEvictions();
    expect(events("store_keys_evicted")).toEqual([{ keys: expect.any(Number) }]);
    expect(dataLoss.problems()).toEqual([expect.stringMatching(/^store: Redis has evicted [\d,]+ keys/)]);
  });

  test("the total at its limit: check() rejects before the next batch is refused", async () => {
    await using opened = await open();
    const { store, redis } = opened;
    await store.record([order({ cents: MAX_TOTAL_CENTS - 1_000_000_000_000 })]);
    await store.check();
    await store.record([order()]);
    await expect(store.check()).rejects.toThrow("total_revenue has no room for one more order");
    expect(await redis.hget("global:stats", "total_orders")).toBe("2");
  });
});

test("what there is to look at is read around lines that are damaged or another version's", async () => {
  const url = redisServer.freshUrl();
  const store = await openStore({ kind: "redis", url });
  const redis = new Redis(url);
  await store.addRecent([duplicate("first")]);
  await redis.lpush("orders:recent:duplicate", "", '{"outcome":"dupl', "null", "[]", '{"v":2}', "\xff");
  await store.addRecent([duplicate("last")]);
  expect(await store.recent("duplicate", 2)).toEqual([duplicate("last"), duplicate("first")]);
  for (let round = 0; round < 3; round++) await store.addRecent(Array(60).fill(duplicate("more")));
  expect(await redis.llen("orders:recent:duplicate")).toBe(MAX_RECENT);
  redis.disconnect();
  await store.close();
});

test("the order history is read and added to around lines that are damaged or another version's", async () => {
  await using opened = await open();
  const { store, redis } = opened;
  const entry = duplicateEntry("o");
  for (const text of ["", "\n\n", "x", "7", '3\n{"outcome":"dupl', "9\nnull\n[]", "\xff\n\xff"]) {
    await redis.hset("orders:history:duplicate", "o", text);
    expect(await store.history("o")).toEqual({});
    await store.addHistory([entry]);
    const count = 1 + (/^(\d+)\n./.test(text) ? Number.parseInt(text, 10) : 0);
    expect(await store.history("o")).toEqual({ duplicate: { ...entry, count } });
  }
  await redis.set("orders:history:rejected", "x");
  await expect(store.addHistory([{ ...entry, outcome: "rejected" }])).rejects.toThrow("WRONGTYPE");
});

test("addRecent() rejects where its key holds something else", async () => {
  const url = redisServer.freshUrl();
  const store = await openStore({ kind: "redis", url });
  const redis = new Redis(url);
  await redis.set("orders:recent:duplicate", "x");
  await expect(store.addRecent([duplicate("d")])).rejects.toThrow("WRONGTYPE");
  redis.disconnect();
  await store.close();
});

test("configurationWarnings() names what would lose orders, and nothing where all is well", async () => {
  const server = await startRedisServer();
  const store = await openStore({ kind: "redis", url: server.freshUrl() });
  const redis = new Redis(server.port);
  expect(await store.configurationWarnings()).toEqual([]);
  await redis.config("SET", "appendfsync", "everysec");
  await redis.config("SET", "maxmemory-policy", "allkeys-lru");
  expect(await store.configurationWarnings()).toEqual([
    expect.stringContaining("maxmemory-policy is allkeys-lru"),
    expect.stringContaining("appendfsync is everysec"),
  ]);
  await redis.config("SET", "appendonly", "no");
  expect(await store.configurationWarnings()).toContainEqual(expect.stringContaining("appendonly is off"));
  redis.disconnect();
  await store.close();
  await server.stop();
});

test("a connection that has died without a word is replaced", async () => {
  const { port, silence, stop } = await startSilencer(redisServer.port);
  const store = await openStore({ kind: "redis", url: `redis://127.0.0.1:${port}/990` });
  silence();
  await expect(store.check()).rejects.toThrow("Redis does not accept orders: no response within 5 s");
  await waitFor(
    "a new connection",
    () =>
      store.check().then(
        () => true,
        () => false,
      ),
    15_000,
  );
  await store.close();
  stop();
});

test("after a flush, a store that another time zone was begun with counts nothing of this one", async () => {
  await using opened = await open();
  const { redis, url } = opened;
  const berlin = await openStore({ kind: "redis", url, timeZone: "Europe/Berlin" });
  await berlin.record([order()]);
  await redis.flushdb();
  // The next open or batch decides.
  const tokyo = await openStore({ kind: "redis", url, timeZone: "Asia/Tokyo" });
  const refusal = "begun with TIME_ZONE=Asia/Tokyo, this program has TIME_ZONE=Europe/Berlin: restart";
  await expect(berlin.check()).rejects.toThrow(refusal);
  await expect(berlin.record([order()])).rejects.toThrow(refusal);
  expect(await berlin.global()).toEqual({ orders: 0, cents: 0 });
  await redis.flushdb();
  expect(await berlin.record([order()])).toEqual(["recorded"]);
  await expect(tokyo.record([order()])).rejects.toThrow("begun with TIME_ZONE=Europe/Berlin");
  await Promise.all([berlin.close(), tokyo.close()]);
});

test("a store opens while Redis refuses writes, and is begun with the first order", async () => {
  const full = await startRedisServer();
  const url = full.freshUrl();
  const redis = new Redis(url);
  await redis.config("SET", "maxmemory", "1");
  const store = await openStore({ kind: "redis", url, timeZone: "Europe/Berlin" });
  const other = await openStore({ kind: "redis", url, timeZone: "Asia/Tokyo" });
  await redis.config("SET", "maxmemory", "0");
  expect(await store.record([order()])).toEqual(["recorded"]);
  await expect(other.record([order()])).rejects.toThrow("begun with TIME_ZONE=Europe/Berlin");
  expect(await other.timeZone()).toBe("Europe/Berlin");
  redis.disconnect();
  await Promise.all([store.close(), other.close()]);
  await full.stop();
});

test("check() rejects while Redis is full, and record() then writes nothing", async () => {
  const server = await startRedisServer();
  const url = server.freshUrl();
  const store = await openStore({ kind: "redis", url });
  const redis = new Redis(url);
  await store.record([order()]);
  await redis.config("SET", "maxmemory", "1");
  await expect(store.check()).rejects.toThrow("OOM");
  await expect(store.record([order()])).rejects.toThrow("OOM");
  expect(await store.global()).toEqual({ orders: 1, cents: 1000 });
  redis.disconnect();
  await store.close();
  await server.stop();
});

test("calls fail at once while Redis is down and work again after it is back", async () => {
  const server = await startRedisServer();
  const store = await openStore({ kind: "redis", url: server.freshUrl() });
  const kept = order();
  await store.record([kept]);
  await server.kill();
  await store.check().catch(() => {}); // the client notices
  const before = performance.now();
  await expect(store.record([order()])).rejects.toThrow();
  await expect(store.addRecent([duplicate("d")])).rejects.toThrow();
  expect(performance.now() - before).toBeLessThan(1000);
  await server.start();
  await waitFor("the store", () =>
    store.check().then(
      () => true,
      () => false,
    ),
  );
  expect(await store.record([kept])).toEqual(["duplicate"]);
  expect(await store.global()).toEqual({ orders: 1, cents: 1000 });
  await store.close();
  await server.stop();
});

/** A TCP proxy that can let its connections of the moment go silent, as a firewall does; new ones work. */
async function startSilencer(target: number) {
  const silent = new Set<Socket>();
  const open = new Set<Socket>();
  const server = createServer((client) => {
    const upstream = connect(target, "127.0.0.1");
    open.add(client);
    client.on("data", (data) => silent.has(client) || upstream.write(data));
    upstream.on("data", (data) => silent.has(client) || client.write(data));
    for (const socket of [client, upstream]) socket.on("error", () => {});
    client.on("close", () => upstream.destroy());
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const silence = () => {
    for (const client of open) silent.add(client);
  };
  const stop = () => {
    for (const client of open) client.destroy();
    server.close();
  };
  return { port: (server.address() as AddressInfo).port, silence, stop };
}
