import { Database } from "bun:sqlite";
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";
import { join } from "node:path";
import { Redis } from "ioredis";
import { joinBatches } from "../store/join.ts";
import { openStore, type StoreAddress } from "../store/open.ts";
import { boardsOf } from "../store/periods.ts";
import { type Read, shareReads } from "../store/share.ts";
import {
  MAX_RECENT,
  MAX_TOTAL_CENTS,
  type Order,
  type RecentOrder,
  type Recorded,
  type Store,
  type Totals,
  type UserTotals,
  MARKER_WINDOW_SECONDS as WINDOW,
} from "../store/store.ts";
import { order } from "./support/orders.ts";
import { temporaryFolder } from "./support/program.ts";
import { type RedisCluster, startRedisCluster } from "./support/redis-cluster.ts";
import { type RedisServer, startRedisServer } from "./support/redis-server.ts";
import { waitFor } from "./support/wait-for.ts";

// Real processes on a busy machine: bun's five seconds would fail a test that is only slow.
setDefaultTimeout(60_000);

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
  const boards = [...new Set(days.flatMap(boardsOf))].sort();
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
    for (const board of boardsOf(day)) {
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

const duplicate = (messageId: string): RecentOrder => ({ outcome: "duplicate", atMs: 1_734_000_000_000, messageId });

describe.each(Object.keys(addresses))("%s", (kind) => {
  test("an empty store answers zeros", async () => {
    await using opened = await twoStores(kind);
    const [store] = opened.stores;
    expect(await store.global()).toEqual({ orders: 0, cents: 0 });
    expect(await store.user("nobody")).toEqual({ orders: 0, cents: 0 });
    expect(await store.top("d:2024-12-13", 10)).toEqual([]);
    expect(await store.daily(["2024-12-13"])).toEqual([{ orders: 0, cents: 0 }]);
    expect(await store.record([])).toEqual([]);
    expect(await store.knows("nothing")).toBeFalse();
    expect(await store.recent("rejected", 10)).toEqual([]);
    await store.remember([]);
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

  test("record() counts an order once when two workers hold it at the same time", async () => {
    await using opened = await twoStores(kind);
    const [store, other] = opened.stores;
    const orders = Array.from({ length: 500 }, (_, index) => order({ userId: `U${index % 7}`, cents: index }));
    const batches = Array.from({ length: 50 }, (_, index) => orders.slice(index * 10, index * 10 + 10));
    const answers = await Promise.all(batches.flatMap((batch) => [store.record(batch), other.record(batch)]));
    expect(answers.flat().filter((answer) => answer === "recorded")).toHaveLength(500);
    expect(await wholeState(store, orders)).toEqual(expectedState(orders));
  });

  test("record() after a crash between record and delete answers duplicate", async () => {
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
    for (const board of boardsOf("2024-12-13"))
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
    expect(await Promise.all(odd.map(store.knows))).toEqual(odd.map(() => false));
    expect(await store.record(orders)).toEqual(orders.map(() => "recorded"));
    expect(await store.record(orders)).toEqual(orders.map(() => "duplicate"));
    expect(await Promise.all(odd.map(store.knows))).toEqual(odd.map(() => true));
    expect(await Promise.all(odd.map((id) => store.knows(`${id} `)))).toEqual(odd.map(() => false));
    const expected = expectedState(orders.filter(({ userId }) => userId !== "__proto__"));
    for (const { userId, cents } of orders) expect(await store.user(userId)).toEqual({ orders: 1, cents });
    expect(expected.global.orders).toBe(orders.length - 1);
    expect((await store.global()).orders).toBe(orders.length);
    expect((await store.top("y:2024", 1000)).map(({ userId }) => userId)).toEqual(odd.toReversed());
  });

  test("sums stay exact over a million cents-odd adds", async () => {
    await using opened = await twoStores(kind);
    const [store] = opened.stores;
    // 1,000 batches of 1,000: 19.99 is not a double, and a float sum of a million of them is wrong in the 8th digit.
    // A cluster has the same script; a tenth shows that its parts add up.
    const rounds = kind === "redis cluster" ? 10 : 100;
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
    // Of a cluster each shard, and a user is in one, may hold its part.
    const most = kind === "redis cluster" ? Math.floor(MAX_TOTAL_CENTS / 16) : MAX_TOTAL_CENTS;
    const large = order({ cents: most - 1 });
    await store.record([large]);
    const batch = [order({ cents: 1 }), order({ cents: 1, day: "2024-12-14" })];
    await expect(store.record(batch)).rejects.toThrow("would pass the most that is exact");
    expect(await wholeState(store, [large])).toEqual(expectedState([large]));
    expect(await store.daily(["2024-12-14"])).toEqual([{ orders: 0, cents: 0 }]);
    expect(await store.record(batch.slice(0, 1))).toEqual(["recorded"]);
    expect(await store.global()).toEqual({ orders: 2, cents: most });
  });

  test("knows() answers for thousands of orders as record() does", async () => {
    await using opened = await twoStores(kind);
    const [store, other] = opened.stores;
    const orders = Array.from({ length: 5000 }, () => order());
    const counted = orders.filter((_, index) => index % 3 === 0);
    for (let at = 0; at < counted.length; at += 100) await store.record(counted.slice(at, at + 100));
    const known = await Promise.all(orders.map(({ id }) => other.knows(id)));
    expect(known).toEqual(orders.map((_, index) => index % 3 === 0));
  });

  test("recent() answers what was remembered, by outcome, the newest first", async () => {
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
    await store.remember([duplicate("d1"), corrected, duplicate("d2"), rejected]);
    await other.remember([duplicate("d3")]);
    expect(await other.recent("corrected", 10)).toEqual([corrected]);
    expect(await other.recent("rejected", 10)).toEqual([rejected]);
    expect(await store.recent("duplicate", 10)).toEqual(["d3", "d2", "d1"].map(duplicate));
    expect(await store.recent("duplicate", 2)).toEqual(["d3", "d2"].map(duplicate));
    expect(await store.recent("duplicate", 0)).toEqual([]);
  });

  test("remember() keeps the newest hundred of each outcome, however many come at once", async () => {
    await using opened = await twoStores(kind);
    const [store] = opened.stores;
    const names = Array.from({ length: 3 * MAX_RECENT }, (_, index) => `d${index}`);
    await store.remember([{ ...duplicate("r"), outcome: "rejected" }, ...names.slice(0, 250).map(duplicate)]);
    const newest = (end: number) => names.slice(end - MAX_RECENT, end).reverse();
    const kept = async () => (await store.recent("duplicate", MAX_RECENT)).map(({ messageId }) => messageId);
    expect(await kept()).toEqual(newest(250));
    for (const name of names.slice(250)) await store.remember([duplicate(name)]);
    expect(await kept()).toEqual(newest(300));
    expect(await store.recent("rejected", MAX_RECENT)).toHaveLength(1);
  });

  test("the parts of a listing are kept as they are, and gone after their time", async () => {
    await using opened = await twoStores(kind);
    const [store, other] = opened.stores;
    const parts = ["", '["😀\\u0000"]', "\0", ...Array.from({ length: 20 }, (_, index) => `${index}`.repeat(50_000))];
    await store.keepListing("long", parts, 600);
    await store.keepListing("short", ["here"], 1);
    for (const [index, part] of parts.entries()) expect(await other.listingPart("long", index)).toBe(part);
    for (const index of [parts.length, -1, 0.5]) expect(await other.listingPart("long", index)).toBeUndefined();
    expect(await other.listingPart("none", 0)).toBeUndefined();
    expect(await other.listingPart("short", 0)).toBe("here");
    await waitFor("its end", async () => (await other.listingPart("short", 0)) === undefined);
    await store.keepListing("next", [], 600);
    expect(await other.listingPart("long", 1)).toBe(parts[1] as string);
  });

  test("userIds() has everybody once, page by page, while the store counts and is checked", async () => {
    await using opened = await twoStores(kind);
    const [store, other] = opened.stores;
    // Of the thousand of a page the last is "a", and the next one comes right after it.
    const numbers = (count: number, letter: string) => Array.from({ length: count }, (_, index) => `${letter}${index}`);
    const users = ["", ...numbers(998, "U"), "a", "a\0", "a\0\0", "é", "😀", ...numbers(1500, "z")];
    for (let at = 0; at < users.length; at += 500)
      await store.record(users.slice(at, at + 500).map((userId) => order({ userId })));
    const found: string[] = [];
    for await (const page of store.userIds("y:2024")) {
      found.push(...page);
      await other.record([order()]);
      await store.check();
      await store.record([order()]);
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

describe("joinBatches()", () => {
  /** A record that answers when it is told to, and notes the sizes of its calls. */
  function heldRecord(store: Store) {
    const sizes: number[] = [];
    let release = () => {};
    const held = new Promise<void>((resolve) => {
      release = resolve;
    });
    const record = joinBatches(async (orders) => {
      sizes.push(orders.length);
      await held;
      return await store.record(orders);
    });
    return { record, release, sizes };
  }

  test("what comes while a call is on its way goes in one call, and each batch has its own answers", async () => {
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

describe("shareReads()", () => {
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
    const shared = shareReads({ ...store, user: noted("user", store.user), top: noted("top", store.top) });
    const answers = await Promise.all([
      shared.user("U1"),
      shared.user("U1"),
      shared.user("U2"),
      shared.top("y:2024", 1),
    ]);
    expect(answers[0]).toEqual({ value: { orders: 1, cents: 1000 }, asOfMs: expect.any(Number) });
    expect(answers[1]).toEqual(answers[0] as Read<Totals>);
    expect((await shared.top("y:2024", 11)).value).toHaveLength(2);
    await shared.user("U1");
    expect(reads).toEqual([
      ["user", "U1"],
      ["user", "U2"],
      ["top", "y:2024", 1],
      ["top", "y:2024", 11],
      ["user", "U1"],
    ]);
  });

  test("a read that fails fails for all who share it, and for nobody after", async () => {
    await using opened = await twoStores("redis");
    const [store] = opened.stores;
    let broken = true;
    const shared = shareReads({
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

describe("redis", () => {
  test("the two public hashes hold counts and decimal text", async () => {
    const url = redisServer.freshUrl();
    const store = await openStore({ kind: "redis", url });
    const redis = new Redis(url);
    await store.record([order({ cents: 320_070, userId: "U5678" }), order({ cents: 5, userId: "U5678" })]);
    expect(await redis.hgetall("user:U5678")).toEqual({ order_count: "2", total_spend: "3200.75" });
    expect(await redis.hgetall("global:stats")).toEqual({ total_orders: "2", total_revenue: "3200.75" });
    redis.disconnect();
    await store.close();
  });

  test("markers, and nothing else, expire, and not before the window is over", async () => {
    const url = redisServer.freshUrl();
    const store = await openStore({ kind: "redis", url });
    const redis = new Redis(url);
    await store.record([order()]);
    const [marker = "", ...others] = await redis.keys("orders:ids:*");
    expect(others).toEqual([]);
    for (const key of await redis.keys("*")) {
      if (key === marker) expect(await redis.ttl(key)).toBeWithin(2 * WINDOW - 10, 2 * WINDOW + 1);
      else expect(await redis.ttl(key)).toBe(-1);
    }
    redis.disconnect();
    await store.close();
  });

  /** The marker layers as the store lists them, and a way to set them back in time. */
  async function layersOf(redis: Redis) {
    const words = ((await redis.get("orders:ids")) ?? "").split(" ").map(Number);
    const at = (index: number) => words.slice(index * 4, index * 4 + 4) as [number, number, number, number];
    const layers = Array.from({ length: words.length / 4 }, (_, index) => at(index));
    const age = (seconds: number) =>
      redis.set(
        "orders:ids",
        layers.map(([number, sets, began, begun]) => [number, sets, began, begun - seconds].join(" ")).join(" "),
      );
    return { layers, age };
  }

  test("an order id is known until a whole window after its layer has ended", async () => {
    const url = redisServer.freshUrl();
    const store = await openStore({ kind: "redis", url });
    const redis = new Redis(url);
    const old = order();
    await store.record([old]);
    await (await layersOf(redis)).age(WINDOW);
    const next = order();
    const known = () => Promise.all([old, next].map(({ id }) => store.knows(id)));
    expect(await known()).toEqual([true, false]);
    expect(await store.record([old, next])).toEqual(["duplicate", "recorded"]);
    const { layers, age } = await layersOf(redis);
    expect(layers.map(([number]) => number)).toEqual([1, 2]);
    await age(WINDOW - 5);
    expect(await known()).toEqual([true, true]);
    expect(await store.record([old, next])).toEqual(["duplicate", "duplicate"]);
    // Now the first layer ended a window ago.
    await (await layersOf(redis)).age(5);
    expect(await known()).toEqual([false, true]);
    expect(await store.record([next, order()])).toEqual(["duplicate", "recorded"]);
    expect((await layersOf(redis)).layers.map(([number]) => number)).toEqual([2, 3]);
    expect(await store.record([old])).toEqual(["recorded"]);
    redis.disconnect();
    await store.close();
  });

  test("sets of order ids grow one by one, none beyond 8 bytes an integer, and every id stays known", async () => {
    const url = redisServer.freshUrl();
    const store = await openStore({ kind: "redis", url });
    const redis = new Redis(url);
    const batches = Array.from({ length: 40 }, () => Array.from({ length: 1000 }, () => order()));
    const sets: number[] = [];
    for (const batch of batches) {
      expect(await store.record(batch)).toEqual(Array(1000).fill("recorded"));
      sets.push((await layersOf(redis)).layers[0]?.[1] ?? 0);
    }
    expect(sets.slice(0, 7)).toEqual(Array(7).fill(64));
    // As many as 39,000 ids ask for, 96 each: the last batch came after.
    expect(sets.at(-1)).toBe(Math.ceil(39_000 / 96));
    const grown = sets.map((count, index) => count - (sets[index - 1] ?? 64));
    expect(Math.max(...grown)).toBeLessThan(12);

    const keys = await redis.keys("orders:ids:*");
    expect(keys).toHaveLength(sets.at(-1) ?? 0);
    for (const key of keys) {
      expect(await redis.object("ENCODING", key)).toBe("intset");
      expect(await redis.ttl(key)).toBeWithin(2 * WINDOW - 60, 2 * WINDOW + 1);
    }
    for (const batch of batches) {
      expect(await store.record(batch)).toEqual(Array(1000).fill("duplicate"));
      expect(await store.knows(batch[0]?.id ?? "")).toBeTrue();
    }
    expect(await store.knows(order().id)).toBeFalse();
    redis.disconnect();
    await store.close();
  });

  test("a layer that has fallen behind catches up a few sets at a time", async () => {
    const url = redisServer.freshUrl();
    const store = await openStore({ kind: "redis", url });
    const redis = new Redis(url);
    const orders = Array.from({ length: 1000 }, () => order());
    await store.record(orders);
    await redis.hset("global:stats", "total_orders", 1_000_000);
    for (const expected of [80, 96, 112, 128, 144]) {
      expect(await store.record(orders)).toEqual(Array(1000).fill("duplicate"));
      expect((await layersOf(redis)).layers.map(([, sets]) => sets)).toEqual([expected]);
    }
    const known = await Promise.all(orders.map(({ id }) => store.knows(id)));
    expect(known).toEqual(Array(1000).fill(true));
    redis.disconnect();
    await store.close();
  });

  test("sets grow up to where there is something else, and then nothing is counted", async () => {
    const url = redisServer.freshUrl();
    const store = await openStore({ kind: "redis", url });
    const redis = new Redis(url);
    const orders = Array.from({ length: 500 }, () => order());
    await store.record(orders);
    await redis.hset("global:stats", "total_orders", 10_000);
    await redis.set("orders:ids:1:66", "somebody else's");
    expect(await store.record(orders)).toEqual(Array(500).fill("duplicate"));
    expect((await layersOf(redis)).layers.map(([, sets]) => sets)).toEqual([66]);
    await expect(store.record([order()])).rejects.toThrow("orders:ids:1:66 is somebody else's");
    expect(await store.global()).toMatchObject({ orders: 10_000 });
    await redis.del("orders:ids:1:66");
    expect(await store.record(orders)).toEqual(Array(500).fill("duplicate"));
    redis.disconnect();
    await store.close();
  });

  test("a list of an earlier time is refused: newer sets of ids would not be found", async () => {
    const url = redisServer.freshUrl();
    const store = await openStore({ kind: "redis", url });
    const redis = new Redis(url);
    const record = () => store.record(Array.from({ length: 1000 }, () => order()));
    await record();
    const earlier = (await redis.get("orders:ids")) ?? "";
    while ((await layersOf(redis)).layers[0]?.[1] === 64) await record();
    const list = (await redis.get("orders:ids")) ?? "";
    await redis.set("orders:ids", earlier);
    const total = await store.global();
    await expect(record()).rejects.toThrow("orders:ids is older than the ids");
    await expect(store.check()).rejects.toThrow("orders:ids is older than the ids");
    expect(await store.global()).toEqual(total);
    await redis.set("orders:ids", list);
    await record();
    redis.disconnect();
    await store.close();
  });

  test("no more than the first thousand of a board are kept in order", async () => {
    const url = redisServer.freshUrl();
    const store = await openStore({ kind: "redis", url });
    const redis = new Redis(url);
    for (let batch = 0; batch < 3; batch++)
      await store.record(
        Array.from({ length: 600 }, (_, index) => order({ userId: `U${batch}-${index}`, cents: batch })),
      );
    expect(await redis.zcard("orders:top:y:2024")).toBe(1000);
    expect(await redis.hlen("orders:board:y:2024")).toBe(1800);
    redis.disconnect();
    await store.close();
  });

  test("record() refuses more than 1000 orders at once, and counts none", async () => {
    const store = await openStore({ kind: "redis", url: redisServer.freshUrl() });
    await expect(store.record(Array.from({ length: 1001 }, () => order()))).rejects.toThrow("at most 1000 orders");
    expect(await store.global()).toEqual({ orders: 0, cents: 0 });
    await store.close();
  });

  test("record() writes nothing when a key it needs holds something else", async () => {
    const url = redisServer.freshUrl();
    const store = await openStore({ kind: "redis", url });
    const redis = new Redis(url);
    await redis.set("user:U2", "somebody else's");
    await expect(store.record([order({ userId: "U1" }), order({ userId: "U2" })])).rejects.toThrow("WRONGTYPE");
    await store.check();
    expect(await redis.keys("*")).toEqual(expect.arrayContaining(["user:U2", "orders:check"]));
    expect(await redis.dbsize()).toBe(2);
    redis.disconnect();
    await store.close();
  });

  test.each([
    ["a count that is no number", ["HSET", "global:stats", "total_orders", "many"]],
    ["an amount that is no amount", ["HSET", "user:U2", "total_spend", "1e3"]],
    ["a user's count that is no number", ["HSET", "user:U2", "order_count", "nan"]],
    ["a user's count that is no integer", ["HSET", "user:U2", "order_count", "1.5"]],
    ["a board of another type", ["SET", "orders:board:y:2024", "x"]],
    ["the first users of a board of another type", ["SET", "orders:top:w:2024-W50", "x"]],
    ["a board with what is not orders and cents", ["HSET", "orders:board:m:2024-12", "U2", "12"]],
    ["ids that are not listed as they should be", ["HSET", "orders:ids", "x", "y"]],
    ["days of another type", ["SET", "orders:days", "x"]],
  ])("record() writes nothing where Redis holds %s", async (_, [name = "", ...args]) => {
    const url = redisServer.freshUrl();
    const store = await openStore({ kind: "redis", url });
    const redis = new Redis(url);
    await redis.call(name, ...args);
    const before = (await redis.keys("*")).sort();
    await expect(store.record([order({ userId: "U1" }), order({ userId: "U2" })])).rejects.toThrow();
    expect((await redis.keys("*")).sort()).toEqual(before);
    redis.disconnect();
    await store.close();
  });

  test.each([
    ["a command of the script", "+@all -@keyspace"],
    ["the user keys", "+@all %RW~orders:* %RW~global:* %R~user:*"],
    ["the boards", "+@all %RW~orders:ids* %RW~orders:check %RW~orders:days %R~orders:* %RW~global:* %RW~user:*"],
  ])("a Redis user without the right to %s counts nothing and is told", async (_, rights) => {
    const server = await startRedisServer();
    const redis = new Redis(server.port);
    await redis.call(
      "ACL",
      "SETUSER",
      "shop",
      "on",
      ">pw",
      rights.includes("~") ? "resetkeys" : "~*",
      ...rights.split(" "),
    );
    const store = await openStore({ kind: "redis", url: server.freshUrl().replace("//", "//shop:pw@") });
    await expect(store.check()).rejects.toThrow(/Redis takes no orders: .*this needs the right to/);
    await expect(store.record([order()])).rejects.toThrow("this needs the right to");
    expect(await redis.dbsize()).toBe(0);
    redis.disconnect();
    await store.close();
    await server.stop();
  });

  test("a batch that meets a marker set of another type leaves no markers, and counts when it is mended", async () => {
    const url = redisServer.freshUrl();
    const store = await openStore({ kind: "redis", url });
    const redis = new Redis(url);
    const orders = Array.from({ length: 50 }, () => order());
    const last = orders.at(-1) as Order;
    await store.record([last]);
    const [key = ""] = await redis.keys("orders:ids:*");
    const members = await redis.smembers(key);
    await redis.set(key, "somebody else's");
    await expect(store.record(orders)).rejects.toThrow(`${key}: WRONGTYPE`);
    await redis.del(key);
    await redis.sadd(key, ...members);
    expect(await store.record(orders)).toEqual([...Array(49).fill("recorded"), "duplicate"]);
    redis.disconnect();
    await store.close();
  });

  test("a store that has lost the list of its markers takes no orders, rather than count old ones again", async () => {
    const url = redisServer.freshUrl();
    const store = await openStore({ kind: "redis", url });
    const redis = new Redis(url);
    const counted = order();
    await store.record([counted]);
    const list = (await redis.get("orders:ids")) ?? "";
    for (const lost of ["", "garbage"]) {
      await redis.set("orders:ids", lost);
      await expect(store.check()).rejects.toThrow("orders:ids, which tells where the counted order ids are, is lost");
      await expect(store.record([counted, order()])).rejects.toThrow("is lost");
    }
    await redis.set("orders:ids", list);
    expect(await store.record([counted])).toEqual(["duplicate"]);
    redis.disconnect();
    await store.close();
  });

  test("knows() and record() want both halves of an order id's digest", async () => {
    const url = redisServer.freshUrl();
    const store = await openStore({ kind: "redis", url });
    const redis = new Redis(url);
    const counted = order();
    await store.record([counted]);
    const [key = ""] = await redis.keys("orders:ids:*");
    for (const half of await redis.smembers(key)) {
      expect(await store.knows(counted.id)).toBeTrue();
      await redis.srem(key, half);
      expect(await store.knows(counted.id)).toBeFalse();
      expect(await store.record([counted])).toEqual(["recorded"]);
    }
    redis.disconnect();
    await store.close();
  });

  test("what there is to look at is read around lines that are damaged or another version's", async () => {
    const url = redisServer.freshUrl();
    const store = await openStore({ kind: "redis", url });
    const redis = new Redis(url);
    await store.remember([duplicate("first")]);
    await redis.lpush("orders:recent:duplicate", "", '{"outcome":"dupl', "null", "[]", '{"v":2}', "\xff");
    await store.remember([duplicate("last")]);
    expect(await store.recent("duplicate", 2)).toEqual([duplicate("last"), duplicate("first")]);
    for (let round = 0; round < 3; round++) await store.remember(Array(60).fill(duplicate("more")));
    expect(await redis.llen("orders:recent:duplicate")).toBe(MAX_RECENT);
    redis.disconnect();
    await store.close();
  });

  test("a Redis user who may only read is told what is known and to look at", async () => {
    const server = await startRedisServer();
    const redis = new Redis(server.port);
    const writer = await openStore({ kind: "redis", url: server.freshUrl() });
    const counted = order();
    await writer.record([counted]);
    await writer.remember([duplicate("d")]);
    await writer.keepListing("kept", ["part"], 60);
    await redis.call("ACL", "SETUSER", "reader", "on", ">pw", "%R~*", "+@all", "-@write");
    const reader = await openStore({ kind: "redis", url: `redis://reader:pw@127.0.0.1:${server.port}/0` });
    expect(await reader.knows(counted.id)).toBeTrue();
    expect(await reader.recent("duplicate", 1)).toEqual([duplicate("d")]);
    expect(await reader.listingPart("kept", 0)).toBe("part");
    await expect(reader.remember([duplicate("e")])).rejects.toThrow("NOPERM");
    redis.disconnect();
    await Promise.all([writer.close(), reader.close()]);
    await server.stop();
  });

  test("a listing that is not written to its end is gone after its time", async () => {
    const server = await startRedisServer();
    const url = server.freshUrl();
    const store = await openStore({ kind: "redis", url });
    const redis = new Redis(url);
    const used = Number((await redis.info("memory")).match(/used_memory:(\d+)/)?.[1]);
    await redis.config("SET", "maxmemory", used + 5_000_000);
    const parts = Array.from({ length: 20 }, () => "x".repeat(500_000));
    await expect(store.keepListing("cut", parts, 60)).rejects.toThrow();
    expect(await redis.hlen("orders:listing:cut")).toBeWithin(1, 20);
    expect(await redis.ttl("orders:listing:cut")).toBeWithin(55, 61);
    redis.disconnect();
    await store.close();
    await server.stop();
  });

  test("remember() and keepListing() reject where their keys hold something else", async () => {
    const url = redisServer.freshUrl();
    const store = await openStore({ kind: "redis", url });
    const redis = new Redis(url);
    await redis.mset("orders:recent:duplicate", "x", "orders:listing:a", "x");
    await expect(store.remember([duplicate("d")])).rejects.toThrow("WRONGTYPE");
    await expect(store.keepListing("a", ["part"], 60)).rejects.toThrow("WRONGTYPE");
    redis.disconnect();
    await store.close();
  });

  test("advice() names what would lose orders, and nothing where all is well", async () => {
    const server = await startRedisServer();
    const store = await openStore({ kind: "redis", url: server.freshUrl() });
    const redis = new Redis(server.port);
    expect(await store.advice()).toEqual([]);
    await redis.config("SET", "appendfsync", "everysec");
    await redis.config("SET", "maxmemory-policy", "allkeys-lru");
    expect(await store.advice()).toEqual([
      expect.stringContaining("maxmemory-policy is allkeys-lru"),
      expect.stringContaining("appendfsync is everysec"),
    ]);
    await redis.config("SET", "appendonly", "no");
    expect(await store.advice()).toContainEqual(expect.stringContaining("appendonly is off"));
    redis.disconnect();
    await store.close();
    await server.stop();
  });

  test("a connection that has died without a word is replaced", async () => {
    const { port, silence, stop } = await startSilencer(redisServer.port);
    const store = await openStore({ kind: "redis", url: `redis://127.0.0.1:${port}/990` });
    silence();
    await expect(store.check()).rejects.toThrow("Redis takes no orders: no answer within 5 s");
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
    await expect(store.remember([duplicate("d")])).rejects.toThrow();
    await expect(store.keepListing("a", ["part"], 60)).rejects.toThrow();
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

  test("opening rejects a database that there is not, rather than count in another", async () => {
    const url = `redis://127.0.0.1:${redisServer.port}/1000`;
    await expect(openStore({ kind: "redis", url })).rejects.toThrow(
      /^Cannot reach Redis at .*\/1000: ERR DB index is out of range$/,
    );
  });

  test("opening rejects with one sentence, without the password, when Redis is not there", async () => {
    const opening = openStore({ kind: "redis", url: "redis://u:secret@127.0.0.1:1" });
    await expect(opening).rejects.toThrow(
      /^Cannot reach Redis at redis:\/\/u:[^s]*@127\.0\.0\.1:1: connection refused/,
    );
  });
});

describe("sqlite", () => {
  test("an order id is counted again only after its marker's time", async () => {
    const path = join(temporaryFolder(), "orders.db");
    const store = await openStore({ kind: "sqlite", path });
    await store.record([order({ id: "old" }), order({ id: "new" })]);
    using db = new Database(path);
    const left = db.query("SELECT order_id, expires_at - unixepoch() AS seconds FROM markers ORDER BY order_id").all();
    for (const { seconds } of left as { seconds: number }[]) expect(seconds).toBeWithin(WINDOW - 10, WINDOW + 1);
    db.run("UPDATE markers SET expires_at = unixepoch() - 1 WHERE order_id = 'old'");
    await store.record([order()]); // prunes what has expired
    expect(await store.record([order({ id: "old" }), order({ id: "new" })])).toEqual(["recorded", "duplicate"]);
    await store.close();
  });

  test("knows() tells the ids whose time is over as the next record() will find them", async () => {
    const path = join(temporaryFolder(), "orders.db");
    const store = await openStore({ kind: "sqlite", path });
    const orders = Array.from({ length: 30 }, () => order());
    await store.record(orders);
    using db = new Database(path);
    db.run("UPDATE markers SET expires_at = unixepoch() - 1");
    const known = await Promise.all(orders.map(({ id }) => store.knows(id)));
    expect(known).toContain(true);
    const answers = await store.record(orders);
    expect(known).toEqual(answers.map((answer) => answer === "duplicate"));
    await store.close();
  });

  test("no more orders are written to be looked at than stay, and what is damaged is passed over", async () => {
    const path = join(temporaryFolder(), "orders.db");
    const store = await openStore({ kind: "sqlite", path });
    await store.remember(Array.from({ length: 1000 }, (_, index) => duplicate(`d${index}`)));
    using db = new Database(path);
    const count = "SELECT count(*) AS rows, max(number) AS written FROM recent";
    expect(db.query(count).get()).toEqual({ rows: MAX_RECENT, written: MAX_RECENT });
    for (const line of ["", '{"outcome":"dupl', "null", "[]", '{"v":2}'])
      db.run("INSERT INTO recent (outcome, line) VALUES ('duplicate', ?)", [line]);
    expect(await store.recent("duplicate", 2)).toEqual(["d999", "d998"].map(duplicate));
    for (let round = 0; round < 3; round++) await store.remember(Array(60).fill(duplicate("more")));
    expect(db.query(count).get()).toMatchObject({ rows: MAX_RECENT });
    await store.close();
  });

  test("listings whose time is over are removed when the next is kept", async () => {
    const path = join(temporaryFolder(), "orders.db");
    const store = await openStore({ kind: "sqlite", path });
    await store.keepListing("old", ["1", "2"], 0);
    await store.keepListing("kept", ["1"], 60);
    await store.keepListing("new", ["1"], 60);
    using db = new Database(path);
    expect(db.query("SELECT id FROM listings ORDER BY id").values()).toEqual([["kept"], ["new"]]);
    await store.close();
  });

  test("a file without the newer tables is opened and gets them", async () => {
    const path = join(temporaryFolder(), "orders.db");
    const before = await openStore({ kind: "sqlite", path });
    const counted = order();
    await before.record([counted]);
    await before.close();
    new Database(path).run("DROP TABLE recent; DROP TABLE listings");
    const store = await openStore({ kind: "sqlite", path });
    await store.remember([duplicate("d")]);
    await store.keepListing("a", ["part"], 60);
    expect(await store.knows(counted.id)).toBeTrue();
    await store.close();
  });

  test("opening rejects with one sentence when the file cannot be made", async () => {
    await expect(openStore({ kind: "sqlite", path: "/proc/nowhere/orders.db" })).rejects.toThrow(
      /^Cannot open the store \/proc\/nowhere\/orders\.db: /,
    );
  });
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
