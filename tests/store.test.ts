import { Database } from "bun:sqlite";
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { createBatchReads } from "../store/batch-reads.ts";
import { createBatchWrites } from "../store/batch-writes.ts";
import { openStore, type StoreAddress } from "../store/open.ts";
import { leaderboardsOf } from "../store/periods.ts";
import { prefixOf } from "../store/redis.ts";
import { connectRedis } from "../store/redis-connection.ts";
import { createSingleFlight, type Read } from "../store/single-flight.ts";
import {
  type FullStore,
  HISTORY_LIMITS,
  type HistoryEntry,
  MAX_RECENT,
  MAX_TOTAL_CENTS,
  type Order,
  type RecentOrder,
  type Recorded,
  type Store,
  type Totals,
  type UserTotals,
} from "../store/store.ts";
import { duplicate, order } from "./support/orders.ts";
import { temporaryFolder } from "./support/program.ts";
import { type RedisCluster, startRedisCluster } from "./support/redis-cluster.ts";
import { type RedisServer, startRedisServer } from "./support/redis-server.ts";

// Real processes on a busy machine: bun's five seconds would fail a test that is only slow.
setDefaultTimeout(60_000);

const ROOT = join(import.meta.dir, "..");

let redisServer: RedisServer;
let redisCluster: RedisCluster;
beforeAll(async () => {
  [redisServer, redisCluster] = await Promise.all([startRedisServer(), startRedisCluster()]);
});
afterAll(() => Promise.all([redisServer.stop(), redisCluster.stop()]));

const addresses: Record<string, () => Promise<StoreAddress>> = {
  redis: async () => ({ kind: "redis", url: redisServer.freshUrl() }),
  sqlite: async () => ({ kind: "sqlite", path: join(temporaryFolder(), "orders.db") }),
  "redis cluster": async () => {
    await redisCluster.flush();
    return redisCluster.address();
  },
};

/** Makes a store look like one of a version without time zones. */
async function forgetTimeZone(address: StoreAddress) {
  if (address.kind === "sqlite") {
    using db = new Database(address.path);
    db.run("DELETE FROM settings WHERE name = 'time_zone'");
    return;
  }
  const redis = await connectRedis(address);
  await redis.hdel(`${prefixOf(redis, undefined)}orders:store`, "time_zone");
  redis.disconnect();
}

/** Two stores on the same fresh data, as two workers have them. */
async function twoStores(kind: string) {
  const address = (await addresses[kind]?.()) as StoreAddress;
  const stores = [await openStore(address), await openStore(address)] as const;
  return {
    stores,
    [Symbol.asyncDispose]: async () => void (await Promise.all(stores.map((store) => store.close()))),
  };
}

/** Everything a store can be asked about these orders. */
async function wholeState(store: Store, orders: readonly Order[]) {
  const users = [...new Set(orders.map(({ userId }) => userId))].sort();
  const days = [...new Set(orders.map(({ day }) => day))].sort();
  const boards = [...new Set(days.flatMap(leaderboardsOf))].sort();
  return {
    global: await store.global(),
    users: Object.fromEntries(await Promise.all(users.map(async (user) => [user, await store.user(user)]))),
    days: Object.fromEntries((await store.daily(days)).map((total, index) => [days[index], total])),
    boards: Object.fromEntries(await Promise.all(boards.map(async (board) => [board, await store.top(board, 1000)]))),
  };
}

/** The same, added up here from orders that count. */
function expectedState(orders: readonly Order[]) {
  const add = <K extends string>(sums: Record<K, { orders: number; cents: number }>, key: K, cents: number) => {
    sums[key] = { orders: (sums[key]?.orders ?? 0) + 1, cents: (sums[key]?.cents ?? 0) + cents };
  };
  const global = {} as Record<"all", { orders: number; cents: number }>;
  const users: Record<string, { orders: number; cents: number }> = {};
  const days: typeof users = {};
  const boards: Record<string, typeof users> = {};
  for (const { userId, day, cents } of orders) {
    add(global, "all", cents);
    add(users, userId, cents);
    add(days, day, cents);
    for (const board of leaderboardsOf(day)) {
      boards[board] ??= {};
      add(boards[board], userId, cents);
    }
  }
  const ranked = Object.entries(boards).map(([board, sums]) => [
    board,
    Object.entries(sums)
      .map(([userId, sum]) => ({ userId, ...sum }))
      .sort((a, b) => b.cents - a.cents || Buffer.compare(Buffer.from(a.userId), Buffer.from(b.userId))),
  ]);
  return { global: global.all, users, days, boards: Object.fromEntries(ranked) };
}

const ranked = (orders: readonly Order[]) => Object.values(expectedState(orders).boards)[0] as UserTotals[];

/** Messages with one order id, the first `index` milliseconds before now. */
function entry(
  outcome: HistoryEntry["outcome"],
  orderId: string,
  messageIds: string[],
  atMs = Date.now(),
): HistoryEntry {
  const latest = messageIds.map((messageId, index) => ({ outcome, orderId, messageId, atMs: atMs + index }));
  return { outcome, orderId, count: messageIds.length, latest };
}

describe.each(Object.keys(addresses))("%s", (kind) => {
  test("an empty store returns zeros", async () => {
    await using opened = await twoStores(kind);
    const [store] = opened.stores;
    expect(await store.global()).toEqual({ orders: 0, cents: 0 });
    expect(await store.user("nobody")).toEqual({ orders: 0, cents: 0 });
    expect(await store.top("d:2024-12-13", 10)).toEqual([]);
    expect(await store.userOn("d:2024-12-13", "nobody")).toEqual({ orders: 0, cents: 0 });
    expect(await store.daily(["2024-12-13"])).toEqual([{ orders: 0, cents: 0 }]);
    expect(await store.record([])).toEqual([]);
    expect(await store.isCounted("nothing")).toBeFalse();
    expect(await store.recent("rejected", 10)).toEqual([]);
    await store.addRecent([]);
    await store.check();
  });

  test("record() adds an order to its user, day, boards and the total", async () => {
    await using opened = await twoStores(kind);
    const [store, other] = opened.stores;
    const orders = [
      order({ cents: 1 }),
      order({ cents: 1999, day: "2024-12-30" }), // ISO week 2025-W01
      order({ cents: 0, userId: "U2" }),
      order({ cents: 320_075, userId: "U3", day: "2021-01-03" }), // ISO week 2020-W53
    ];
    expect(await store.record(orders)).toEqual(Array(4).fill("recorded"));
    const expected = expectedState(orders);
    expect(Object.keys(expected.boards)).toContain("w:2025-W01");
    expect(Object.keys(expected.boards)).toContain("w:2020-W53");
    expect(await wholeState(other, orders)).toEqual(expected);
  });

  test("record() counts copies once: inside a batch, between batches, from another sender", async () => {
    await using opened = await twoStores(kind);
    const [store, other] = opened.stores;
    const first = order({ cents: 500 });
    const second = order({ cents: 700, userId: "U2" });
    const fromAnother = { ...first, userId: "U9", cents: 999, day: "2023-01-01" };
    expect(await store.record([first, second, first])).toEqual(["recorded", "recorded", "duplicate"]);
    expect(await store.record([second, fromAnother])).toEqual(["duplicate", "duplicate"]);
    expect(await other.record([first])).toEqual(["duplicate"]);
    expect(await wholeState(store, [first, second])).toEqual(expectedState([first, second]));
    expect(await store.user("U9")).toEqual({ orders: 0, cents: 0 });
    expect((await store.daily(["2023-01-01"]))[0]).toEqual({ orders: 0, cents: 0 });
  });

  test("totals can be read while the first order is recorded", async () => {
    for (let attempt = 0; attempt < 30; attempt++) {
      await using opened = await twoStores(kind);
      const [store, other] = opened.stores;
      const recording = store.record([order({ userId: "U1" })]);
      const reads = Array.from({ length: 50 }, async (_, index) => {
        await Bun.sleep(index / 10);
        return await Promise.all([other.global(), other.user("U1")]);
      });
      for (const totals of (await Promise.all(reads)).flat()) expect([0, 1]).toContain(totals.orders);
      await recording;
    }
  });

  test("the longest window that the data was opened with applies", async () => {
    const address = (await addresses[kind]?.()) as StoreAddress;
    const first = await openStore({ ...address, windowSeconds: 5_000 });
    const windowOf = async (windowSeconds: number) => {
      const store = await openStore({ ...address, windowSeconds });
      await store.record([order()]);
      const found = await store.markerWindowSeconds();
      await store.close();
      return found;
    };
    await first.record([order()]);
    expect([await windowOf(100), await windowOf(9_000), await windowOf(5_000)]).toEqual([5_000, 9_000, 9_000]);
    expect(await first.markerWindowSeconds()).toBe(9_000);
    await first.close();
  });

  test("an empty store is begun with a time zone, and opens and counts with no other", async () => {
    const address = (await addresses[kind]?.()) as StoreAddress;
    const berlin = await openStore({ ...address, timeZone: "Europe/Berlin" });
    const refusal =
      "it was begun with TIME_ZONE=Europe/Berlin, and this program has TIME_ZONE=UTC. Set TIME_ZONE=Europe";
    await expect(openStore({ ...address, timeZone: "UTC" })).rejects.toThrow(refusal);
    expect(await berlin.record([order()])).toEqual(["recorded"]);
    await expect(openStore({ ...address, timeZone: "UTC" })).rejects.toThrow(refusal);
    // As scripts open it, which only read.
    const reader = await openStore(address);
    expect([await reader.timeZone(), await reader.global()]).toEqual(["Europe/Berlin", { orders: 1, cents: 1000 }]);
    await expect(reader.record([order()])).rejects.toThrow("begun with TIME_ZONE=Europe/Berlin");
    await expect(reader.check()).rejects.toThrow("begun with TIME_ZONE=Europe/Berlin");
    const again = await openStore({ ...address, timeZone: "Europe/Berlin" });
    await again.checkThoroughly();
    expect(await again.record([order()])).toEqual(["recorded"]);
    expect(await reader.global()).toEqual({ orders: 2, cents: 2000 });
    await Promise.all([berlin, reader, again].map((store) => store.close()));
  });

  test("a store that has counted orders without a time zone is one of UTC", async () => {
    const address = (await addresses[kind]?.()) as StoreAddress;
    const old = await openStore(address);
    expect(await old.timeZone()).toBe("UTC");
    await old.record([order()]);
    await forgetTimeZone(address);
    await expect(openStore({ ...address, timeZone: "Asia/Tokyo" })).rejects.toThrow("begun with TIME_ZONE=UTC");
    const store = await openStore({ ...address, timeZone: "UTC" });
    expect([await store.timeZone(), await store.record([order()])]).toEqual(["UTC", ["recorded"]]);
    await Promise.all([old.close(), store.close()]);
  });

  test("of two programs that open an empty store at once with two time zones, one opens it", async () => {
    for (let attempt = 0; attempt < 10; attempt++) {
      const address = (await addresses[kind]?.()) as StoreAddress;
      // Processes, because SQLite blocks its thread.
      const opened = ["Europe/Berlin", "UTC"].map(async (timeZone) => {
        const code = `const store = await (await import("./store/open.ts")).openStore(${JSON.stringify({ ...address, timeZone })});
          await store.record([{ id: "${timeZone}", userId: "U1", cents: 1, day: "2024-12-13" }]); process.exit(0)`;
        const child = Bun.spawn([process.execPath, "-e", code], { cwd: ROOT, stderr: "pipe" });
        const error = await child.stderr.text();
        if ((await child.exited) === 0) return [timeZone];
        expect(error).toContain("begun with TIME_ZONE");
        return [];
      });
      const [winner, ...others] = (await Promise.all(opened)).flat();
      expect(others).toEqual([]);
      const store = await openStore(address);
      expect([await store.timeZone(), await store.global()]).toEqual([winner as string, { orders: 1, cents: 1 }]);
      await store.close();
    }
  });

  test("record() counts an order once when two workers hold it at the same time", async () => {
    await using opened = await twoStores(kind);
    const [store, other] = opened.stores;
    const orders = Array.from({ length: 500 }, (_, index) => order({ userId: `U${index % 7}`, cents: index }));
    const batches = Array.from({ length: 50 }, (_, index) => orders.slice(index * 10, index * 10 + 10));
    const answers = await Promise.all(batches.flatMap((batch) => [store.record(batch), other.record(batch)]));
    expect(answers.flat().filter((answer) => answer === "recorded")).toHaveLength(500);
    expect(await wholeState(store, orders)).toEqual(expectedState(orders));
  });

  test("record() after a crash between record and delete returns duplicate", async () => {
    await using opened = await twoStores(kind);
    const [store, other] = opened.stores;
    const orders = [order(), order({ userId: "U2" })];
    await store.record(orders);
    await store.close(); // the process dies before it deletes; SQS delivers the batch to another one
    expect(await other.record(orders)).toEqual(["duplicate", "duplicate"]);
    expect(await wholeState(other, orders)).toEqual(expectedState(orders));
  });

  test("top() ranks by spend and ties by the bytes of the user id", async () => {
    await using opened = await twoStores(kind);
    const [store] = opened.stores;
    const tied = ["b", "a", "B", "é", "z", "😀", "\uffee", "a b", "10", "9"];
    await store.record([...tied.map((userId) => order({ userId, cents: 100 })), order({ userId: "rich", cents: 101 })]);
    const bytes = tied.toSorted((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
    const top = await store.top("d:2024-12-13", 1000);
    expect(top.map(({ userId }) => userId)).toEqual(["rich", ...bytes]);
    expect(await store.top("d:2024-12-13", 3)).toEqual(top.slice(0, 3));
  });

  test("userOn() returns a user's totals in a day, week, month or year, also below the first thousand", async () => {
    await using opened = await twoStores(kind);
    const [store, other] = opened.stores;
    const others = Array.from({ length: 1200 }, (_, index) => order({ userId: `U${index}`, cents: 1000 }));
    for (const from of [0, 600]) await store.record(others.slice(from, from + 600));
    const ofLast = [
      order({ userId: "last", cents: 1 }),
      order({ userId: "last", cents: 2, day: "2024-12-14" }),
      order({ userId: "last", cents: 4, day: "2024-12-30" }), // ISO week 2025-W01
      order({ userId: "last", cents: 8, day: "2024-02-29" }),
    ];
    await store.record(ofLast);
    const expected: Record<string, Totals> = {
      "d:2024-12-13": { orders: 1, cents: 1 },
      "w:2024-W50": { orders: 2, cents: 3 },
      "w:2025-W01": { orders: 1, cents: 4 },
      "m:2024-12": { orders: 3, cents: 7 },
      "y:2024": { orders: 4, cents: 15 },
      "y:2025": { orders: 0, cents: 0 },
    };
    for (const [board, totals] of Object.entries(expected)) expect(await other.userOn(board, "last")).toEqual(totals);
    expect(await other.userOn("y:2024", "U7")).toEqual({ orders: 1, cents: 1000 });
    expect(await other.userOn("y:2024", "nobody")).toEqual({ orders: 0, cents: 0 });
  });

  test("top() is right for more users than it can answer, whoever grows when", async () => {
    await using opened = await twoStores(kind);
    const [store, other] = opened.stores;
    // Ties at every rank, users that come in late from far behind, and one with nothing spent.
    const orders = Array.from({ length: 6000 }, (_, index) => {
      const number = (index * 7919) % 1733;
      return order({ userId: `U${number}`, cents: ((number * 31) % 50) * 100 * (index > 4000 ? number % 5 : 1) });
    });
    for (let at = 0; at < orders.length; at += 60) {
      await (at % 120 === 0 ? store : other).record(orders.slice(at, at + 60));
      if (at % 600 === 0)
        expect(await store.top("d:2024-12-13", 20)).toEqual(ranked(orders.slice(0, at + 60)).slice(0, 20));
    }
    for (const board of leaderboardsOf("2024-12-13"))
      expect(await store.top(board, 1000)).toEqual(ranked(orders).slice(0, 1000));
  });

  test("top() lets a user in who ties with the last of the first thousand and comes before them", async () => {
    await using opened = await twoStores(kind);
    const [store] = opened.stores;
    const orders = Array.from({ length: 1100 }, (_, index) => order({ userId: `U${index + 1000}`, cents: 100 }));
    for (let at = 0; at < orders.length; at += 100) await store.record(orders.slice(at, at + 100));
    const late = [
      order({ userId: "A", cents: 60 }),
      order({ userId: "A", cents: 40 }),
      order({ userId: "Z", cents: 100 }),
    ];
    for (const each of late) await store.record([each]);
    const top = await store.top("d:2024-12-13", 1000);
    expect(top[0]).toEqual({ userId: "A", orders: 2, cents: 100 });
    expect(top).toEqual(ranked([...orders, ...late]).slice(0, 1000));
  });

  test("ids with any characters neither collide with each other nor with the store's own names", async () => {
    await using opened = await twoStores(kind);
    const [store] = opened.stores;
    const ids = [
      "global:stats",
      "days",
      "check",
      "user:x",
      "x",
      "{x}",
      "a b",
      "a\nb",
      "a\u0000b",
      "a\u0000",
      "a",
      "",
      "__proto__",
    ];
    const odd = [
      ...ids,
      "constructor",
      "😀",
      "é",
      "e\u0301",
      "board:d:2024-12-13",
      "order:1",
      "%s",
      "'; DROP TABLE users; --",
    ];
    const orders = odd.map((id, index) => order({ id, userId: id, cents: index + 1 }));
    expect(await Promise.all(odd.map(store.isCounted))).toEqual(odd.map(() => false));
    expect(await store.record(orders)).toEqual(orders.map(() => "recorded"));
    expect(await store.record(orders)).toEqual(orders.map(() => "duplicate"));
    expect(await Promise.all(odd.map(store.isCounted))).toEqual(odd.map(() => true));
    expect(await Promise.all(odd.map((id) => store.isCounted(`${id} `)))).toEqual(odd.map(() => false));
    const expected = expectedState(orders.filter(({ userId }) => userId !== "__proto__"));
    for (const { userId, cents } of orders) {
      expect(await store.user(userId)).toEqual({ orders: 1, cents });
      expect(await store.userOn("y:2024", userId)).toEqual({ orders: 1, cents });
    }
    expect(expected.global.orders).toBe(orders.length - 1);
    expect((await store.global()).orders).toBe(orders.length);
    expect((await store.top("y:2024", 1000)).map(({ userId }) => userId)).toEqual(odd.toReversed());
  });

  test("sums stay exact over a hundred thousand adds", async () => {
    await using opened = await twoStores(kind);
    const [store] = opened.stores;
    // 19.99 is not a double: a float sum of ten thousand of them is wrong already.
    const rounds = 10;
    for (let round = 0; round < rounds; round++) {
      const batches = Array.from({ length: 10 }, () =>
        Array.from({ length: 1000 }, () => order({ cents: 1999, userId: "U1" })),
      );
      await Promise.all(batches.map((batch) => store.record(batch)));
    }
    const exact = { orders: rounds * 10_000, cents: rounds * 19_990_000 };
    expect(await store.global()).toEqual(exact);
    expect(await store.user("U1")).toEqual(exact);
    expect(await store.top("y:2024", 1)).toEqual([{ userId: "U1", ...exact }]);
  }, 180_000);

  test("record() refuses a batch whole when the total would no longer be exact", async () => {
    await using opened = await twoStores(kind);
    const [store] = opened.stores;
    const large = order({ cents: MAX_TOTAL_CENTS - 1 });
    await store.record([large]);
    const batch = [order({ cents: 1 }), order({ cents: 1, day: "2024-12-14" })];
    await expect(store.record(batch)).rejects.toThrow("would exceed the limit");
    expect(await wholeState(store, [large])).toEqual(expectedState([large]));
    expect(await store.daily(["2024-12-14"])).toEqual([{ orders: 0, cents: 0 }]);
    expect(await store.record(batch.slice(0, 1))).toEqual(["recorded"]);
    expect(await store.global()).toEqual({ orders: 2, cents: MAX_TOTAL_CENTS });
  });

  test("isCounted() returns the same for thousands of orders as record() does", async () => {
    await using opened = await twoStores(kind);
    const [store, other] = opened.stores;
    const orders = Array.from({ length: 5000 }, () => order());
    const counted = orders.filter((_, index) => index % 3 === 0);
    for (let at = 0; at < counted.length; at += 100) await store.record(counted.slice(at, at + 100));
    const known = await Promise.all(orders.map(({ id }) => other.isCounted(id)));
    expect(known).toEqual(orders.map((_, index) => index % 3 === 0));
  });

  test("recent() returns what was added, by outcome, the newest first", async () => {
    await using opened = await twoStores(kind);
    const [store, other] = opened.stores;
    const corrected: RecentOrder = {
      ...{ outcome: "corrected", atMs: 1_734_000_000_001, messageId: "m1", orderId: "o 😀\0\n", userId: "é" },
      ...{ declared: 10.5, cents: 999, traceId: "4bf92f3577b34da6a3ce929d0e0e4736" },
    };
    const rejected: RecentOrder = {
      ...{ outcome: "rejected", atMs: 1_734_000_000_002, messageId: "m2", reason: "invalid" },
      errors: [{ path: "/items", message: "Expected array" }],
    };
    const future: RecentOrder = { ...duplicate("m3"), outcome: "implausible_date", day: "2062-12-13" };
    await store.addRecent([duplicate("d1"), corrected, duplicate("d2"), rejected, future]);
    await other.addRecent([duplicate("d3")]);
    expect(await other.recent("corrected", 10)).toEqual([corrected]);
    expect(await other.recent("rejected", 10)).toEqual([rejected]);
    expect(await other.recent("implausible_date", 10)).toEqual([future]);
    expect(await store.recent("duplicate", 10)).toEqual(["d3", "d2", "d1"].map(duplicate));
    expect(await store.recent("duplicate", 2)).toEqual(["d3", "d2"].map(duplicate));
    expect(await store.recent("duplicate", 0)).toEqual([]);
  });

  test("addRecent() keeps the newest hundred of each outcome, however many come at once", async () => {
    await using opened = await twoStores(kind);
    const [store] = opened.stores;
    const names = Array.from({ length: 3 * MAX_RECENT }, (_, index) => `d${index}`);
    await store.addRecent([{ ...duplicate("r"), outcome: "rejected" }, ...names.slice(0, 250).map(duplicate)]);
    const newest = (end: number) => names.slice(end - MAX_RECENT, end).reverse();
    const kept = async () => (await store.recent("duplicate", MAX_RECENT)).map(({ messageId }) => messageId);
    expect(await kept()).toEqual(newest(250));
    for (const name of names.slice(250)) await store.addRecent([duplicate(name)]);
    expect(await kept()).toEqual(newest(300));
    expect(await store.recent("rejected", MAX_RECENT)).toHaveLength(1);
  });

  test("history() returns the messages of an order id by outcome, from both workers", async () => {
    await using opened = await twoStores(kind);
    const [store, other] = opened.stores;
    const now = Date.now();
    const corrected = entry("corrected", "o 😀\0\n", ["c"], now);
    Object.assign(corrected.latest[0] as object, { userId: "é\n", declared: 1e21 / 3, cents: 999 });
    const rejected = entry("rejected", "o 😀\0\n", ["r1", "r2"], now);
    Object.assign(rejected.latest[1] as object, { reason: "invalid_order", errors: [{ path: "/a\nb", message: "é" }] });
    await store.addHistory([corrected, rejected, entry("rejected", "o 😀\0", ["x"]), entry("duplicate", "1", ["d"])]);
    await other.addHistory([
      entry("rejected", "o 😀\0\n", ["r3", "r4"], now + 5),
      entry("duplicate", "1", ["e"], now + 9),
    ]);
    const history = await store.history("o 😀\0\n");
    expect(history.corrected).toEqual(corrected);
    expect(history.rejected?.latest.map(({ messageId }) => messageId)).toEqual(["r2", "r3", "r4"]);
    expect(history.rejected?.latest[0]).toEqual(rejected.latest[1] as RecentOrder);
    expect([history.rejected?.count, history.duplicate]).toEqual([4, undefined]);
    expect(await other.history("1")).toEqual({ duplicate: { ...entry("duplicate", "1", ["e"], now + 9), count: 2 } });
    expect(await store.history("__proto__")).toEqual({});
    const whole: string[] = [];
    for await (const page of store.wholeHistory()) whole.push(...page.map((one) => `${one.outcome} ${one.orderId}`));
    expect(whole.sort()).toEqual(["corrected o 😀\0\n", "duplicate 1", "rejected o 😀\0", "rejected o 😀\0\n"]);
  });

  test("addHistory() counts every duplicate when two workers add the same orders at the same time", async () => {
    await using opened = await twoStores(kind);
    const ids = Array.from({ length: 150 }, (_, index) => `o${index}`);
    const added = Array.from({ length: 20 }, (_, round) => ids.map((id) => entry("duplicate", id, ["a", `${round}`])));
    await Promise.all(added.flatMap((entries) => opened.stores.map((store) => store.addHistory(entries))));
    for (const id of ["o0", "o99", "o149"])
      expect((await opened.stores[0].history(id)).duplicate).toMatchObject({ count: 80, latest: [{ orderId: id }] });
  });

  test("addHistory() removes the oldest orders of an outcome, and history() returns none older than the window", async () => {
    const address = (await addresses[kind]?.()) as StoreAddress;
    const store = await openStore({ ...address, windowSeconds: 100 });
    const now = Date.now();
    const many = Array.from({ length: HISTORY_LIMITS.duplicate.orders + 500 }, (_, index) =>
      entry("duplicate", `d${index}`, ["m"], now - 50_000 + index),
    );
    const old = entry("rejected", "old", ["m"], now - 60_000);
    await store.addHistory([entry("corrected", "too old", ["m"], now - 101_000), old]);
    for (let at = 0; at < many.length; at += 5_000) await store.addHistory(many.slice(at, at + 5_000).reverse());
    expect(await store.history("too old")).toEqual({});
    expect(await store.history("old")).toEqual({ rejected: old });
    const found = await Promise.all(["d0", "d499", "d500", many.at(-1)?.orderId ?? ""].map(store.history));
    expect(found.map(({ duplicate }) => duplicate?.count)).toEqual([undefined, undefined, 1, 1]);
    let kept = 0;
    for await (const page of store.wholeHistory()) kept += page.length;
    expect(kept).toBe(HISTORY_LIMITS.duplicate.orders + 1);
    await store.close();
  });

  test.each<[string, (store: FullStore) => AsyncIterable<UserTotals[]>]>([
    ["users()", (store) => store.users()],
    ["usersOn()", (store) => store.usersOn("y:2024")],
  ])("%s has everybody once, page by page, while the store counts and is checked", async (_, list) => {
    await using opened = await twoStores(kind);
    const [store, other] = opened.stores;
    // Of the thousand of a page the last is "a", and the next one comes right after it.
    const numbers = (count: number, letter: string) => Array.from({ length: count }, (_, index) => `${letter}${index}`);
    const users = ["", ...numbers(998, "U"), "a", "a\0", "a\0\0", "é", "😀", ...numbers(1500, "z")];
    for (let at = 0; at < users.length; at += 500)
      await store.record(users.slice(at, at + 500).map((userId) => order({ userId })));
    const found: string[] = [];
    for await (const page of list(store)) {
      found.push(...page.map(({ userId }) => userId));
      await other.record([order({ userId: "a" })]);
      await store.check();
      await store.record([order({ userId: "é" })]);
    }
    expect(found.sort()).toEqual(users.sort());
  });
});

test.each(["redis", "redis cluster"])("%s and sqlite answer the same to the same orders", async (kind) => {
  await using redis = await twoStores(kind);
  await using sqlite = await twoStores("sqlite");
  const days = ["2024-12-13", "2024-12-29", "2024-12-30", "2025-01-01", "2020-12-31", "2021-01-04"];
  const orders = Array.from({ length: 2000 }, (_, index) =>
    order({
      id: `o${index % 1500}`,
      userId: `U${(index * 7919) % 97}`,
      cents: (index * 31) % 500,
      day: days[index % 6] as string,
    }),
  );
  for (let at = 0; at < orders.length; at += 10) {
    const batch = orders.slice(at, at + 10);
    expect(await redis.stores[0].record(batch)).toEqual(await sqlite.stores[0].record(batch));
  }
  expect(await wholeState(redis.stores[0], orders)).toEqual(await wholeState(sqlite.stores[0], orders));
});

describe("createBatchWrites()", () => {
  /** A record that answers when it is told to, and notes the sizes of its calls. */
  function heldRecord(store: Store) {
    const sizes: number[] = [];
    let release = () => {};
    const held = new Promise<void>((resolve) => {
      release = resolve;
    });
    const record = createBatchWrites(async (orders) => {
      sizes.push(orders.length);
      await held;
      return await store.record(orders);
    });
    return { record, release, sizes };
  }

  test("batches that arrive during a call go into one call, and each has its own results", async () => {
    await using opened = await twoStores("redis");
    const { record, release, sizes } = heldRecord(opened.stores[0]);
    const [a, b, c] = [order(), order(), order()];
    const answers = [[a], [b, a], [], [c, b, c]].map((orders) => record(orders));
    release();
    const expected = [["recorded"], ["recorded", "duplicate"], [], ["recorded", "duplicate", "duplicate"]];
    expect(await Promise.all(answers)).toEqual(expected as Recorded[][]);
    expect(sizes).toEqual([1, 5]);
    expect(await record([c])).toEqual(["duplicate"]);
  });

  test("a call that fails rejects all its batches, and the next one is tried", async () => {
    await using opened = await twoStores("redis");
    const { record, release, sizes } = heldRecord(opened.stores[0]);
    const [good, too] = [order(), order({ cents: MAX_TOTAL_CENTS })];
    const first = record([order()]);
    const joined = Promise.allSettled([record([good]), record([too])]);
    release();
    await first;
    expect((await joined).map(({ status }) => status)).toEqual(["rejected", "rejected"]);
    expect(await record([good])).toEqual(["recorded"]);
    expect(sizes).toEqual([1, 2, 1]);
  });
});

describe("createBatchReads()", () => {
  test("reads that begin together are one call, and each has its own value or error", async () => {
    const calls: (readonly string[])[] = [];
    const read = createBatchReads(async (keys) => {
      calls.push(keys);
      return keys.map((key) => (key === "bad" ? new Error("bad key") : key.toUpperCase()));
    });
    const bad = read("bad").catch(String);
    expect(await Promise.all([read("a"), read("b"), read("a"), bad])).toEqual(["A", "B", "A", "Error: bad key"]);
    expect(await read("c")).toBe("C");
    expect(calls).toEqual([["bad", "a", "b", "a"], ["c"]]);
  });

  test("a call that fails rejects all its reads, and the next one is tried", async () => {
    let broken = true;
    const read = createBatchReads(async (keys) => {
      if (broken) throw new Error("no Redis");
      return keys;
    });
    const failing = await Promise.allSettled([read("a"), read("b")]);
    expect(failing.map(({ status }) => status)).toEqual(["rejected", "rejected"]);
    broken = false;
    expect(await read("a")).toBe("a");
  });
});

describe("createSingleFlight()", () => {
  test("identical reads at one moment are one read, others and later ones are not", async () => {
    await using opened = await twoStores("redis");
    const [store] = opened.stores;
    await store.record([order(), order({ userId: "U2" })]);
    const reads: unknown[][] = [];
    const noted =
      <A extends unknown[], T>(name: string, read: (...args: A) => Promise<T>) =>
      (...args: A) => {
        reads.push([name, ...args]);
        return read(...args);
      };
    const shared = createSingleFlight({
      ...store,
      userOn: noted("userOn", store.userOn),
      top: noted("top", store.top),
    });
    const answers = await Promise.all([
      shared.userOn("y:2024", "U1"),
      shared.userOn("y:2024", "U1"),
      shared.userOn("y:2024", "U2"),
      shared.top("y:2024", 1),
    ]);
    expect(answers[0]).toEqual({ value: { orders: 1, cents: 1000 }, asOfMs: expect.any(Number) });
    expect(answers[1]).toEqual(answers[0] as Read<Totals>);
    expect((await shared.top("y:2024", 11)).value).toHaveLength(2);
    await shared.userOn("y:2024", "U1");
    expect(reads).toEqual([
      ["userOn", "y:2024", "U1"],
      ["userOn", "y:2024", "U2"],
      ["top", "y:2024", 1],
      ["top", "y:2024", 11],
      ["userOn", "y:2024", "U1"],
    ]);
  });

  test("a read that fails fails for all who share it, and for nobody after", async () => {
    await using opened = await twoStores("redis");
    const [store] = opened.stores;
    let broken = true;
    const shared = createSingleFlight({
      ...store,
      global: async () => {
        if (broken) throw new Error("no Redis");
        return await store.global();
      },
    });
    const failing = await Promise.allSettled([shared.global(), shared.global()]);
    expect(failing.map(({ status }) => status)).toEqual(["rejected", "rejected"]);
    broken = false;
    expect((await shared.global()).value).toEqual({ orders: 0, cents: 0 });
  });
});
