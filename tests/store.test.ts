import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";
import { join } from "node:path";
import { Redis } from "ioredis";
import { openStore, type StoreAddress } from "../store/open.ts";
import { boardsOf } from "../store/periods.ts";
import { MAX_TOTAL_CENTS, type Order, type Store } from "../store/store.ts";
import { order } from "./support/orders.ts";
import { temporaryFolder } from "./support/program.ts";
import { type RedisServer, startRedisServer } from "./support/redis-server.ts";
import { waitFor } from "./support/wait-for.ts";

// Real processes on a busy machine: bun's five seconds would fail a test that is only slow.
setDefaultTimeout(60_000);

let redisServer: RedisServer;
beforeAll(async () => {
  redisServer = await startRedisServer();
});
afterAll(() => redisServer.stop());

const addresses: Record<string, () => StoreAddress> = {
  redis: () => ({ kind: "redis", url: redisServer.freshUrl(), markerTtlSeconds: 1000 }),
  sqlite: () => ({ kind: "sqlite", path: join(temporaryFolder(), "orders.db"), markerTtlSeconds: 1000 }),
};

/** Two stores on the same fresh data, as two workers have them. */
async function twoStores(kind: string) {
  const address = addresses[kind]?.() as StoreAddress;
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

describe.each(Object.keys(addresses))("%s", (kind) => {
  test("an empty store answers zeros", async () => {
    await using opened = await twoStores(kind);
    const [store] = opened.stores;
    expect(await store.global()).toEqual({ orders: 0, cents: 0 });
    expect(await store.user("nobody")).toEqual({ orders: 0, cents: 0 });
    expect(await store.top("d:2024-12-13", 10)).toEqual([]);
    expect(await store.daily(["2024-12-13"])).toEqual([{ orders: 0, cents: 0 }]);
    expect(await store.record([])).toEqual([]);
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
    expect(await store.record(orders)).toEqual(orders.map(() => "recorded"));
    expect(await store.record(orders)).toEqual(orders.map(() => "duplicate"));
    const expected = expectedState(orders.filter(({ userId }) => userId !== "__proto__"));
    for (const { userId, cents } of orders) expect(await store.user(userId)).toEqual({ orders: 1, cents });
    expect(expected.global.orders).toBe(orders.length - 1);
    expect((await store.global()).orders).toBe(orders.length);
    expect((await store.top("y:2024", 1000)).map(({ userId }) => userId)).toEqual(odd.toReversed());
  });

  test("sums stay exact over a million cents-odd adds", async () => {
    await using opened = await twoStores(kind);
    const [store] = opened.stores;
    // 10,000 batches of 100: 19.99 is not a double, and a float sum of a million of them is wrong in the 8th digit.
    for (let round = 0; round < 100; round++) {
      const batches = Array.from({ length: 100 }, () =>
        Array.from({ length: 100 }, () => order({ cents: 1999, userId: "U1" })),
      );
      await Promise.all(batches.map((batch) => store.record(batch)));
    }
    const exact = { orders: 1_000_000, cents: 1_999_000_000 };
    expect(await store.global()).toEqual(exact);
    expect(await store.user("U1")).toEqual(exact);
    expect(await store.top("y:2024", 1)).toEqual([{ userId: "U1", ...exact }]);
  }, 180_000);

  test("record() refuses a batch whole when the total would no longer be exact", async () => {
    await using opened = await twoStores(kind);
    const [store] = opened.stores;
    const large = order({ cents: MAX_TOTAL_CENTS - 1 });
    await store.record([large]);
    const batch = [order({ userId: "U2", cents: 1 }), order({ userId: "U3", cents: 1 })];
    await expect(store.record(batch)).rejects.toThrow("would pass the most that is exact");
    expect(await wholeState(store, [large, ...batch])).toEqual({
      ...expectedState([large]),
      users: {
        U1: { orders: 1, cents: MAX_TOTAL_CENTS - 1 },
        U2: { orders: 0, cents: 0 },
        U3: { orders: 0, cents: 0 },
      },
    });
    expect(await store.record(batch.slice(0, 1))).toEqual(["recorded"]);
    expect(await store.global()).toEqual({ orders: 2, cents: MAX_TOTAL_CENTS });
  });
});

test("both stores answer the same to the same orders", async () => {
  await using redis = await twoStores("redis");
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

describe("redis", () => {
  test("the two public hashes hold counts and decimal text", async () => {
    const url = redisServer.freshUrl();
    const store = await openStore({ kind: "redis", url, markerTtlSeconds: 1000 });
    const redis = new Redis(url);
    await store.record([order({ cents: 320_070, userId: "U5678" }), order({ cents: 5, userId: "U5678" })]);
    expect(await redis.hgetall("user:U5678")).toEqual({ order_count: "2", total_spend: "3200.75" });
    expect(await redis.hgetall("global:stats")).toEqual({ total_orders: "2", total_revenue: "3200.75" });
    redis.disconnect();
    await store.close();
  });

  test("markers, and nothing else, expire after the window", async () => {
    const url = redisServer.freshUrl();
    const store = await openStore({ kind: "redis", url, markerTtlSeconds: 777_600 });
    const redis = new Redis(url);
    await store.record([order({ id: "m1" })]);
    for (const key of await redis.keys("*")) {
      const ttl = await redis.ttl(key);
      if (key === "orders:seen:m1") expect(ttl).toBeWithin(777_590, 777_601);
      else expect(ttl).toBe(-1);
    }
    redis.disconnect();
    await store.close();
  });

  test("record() writes nothing when a key it needs holds something else", async () => {
    const url = redisServer.freshUrl();
    const store = await openStore({ kind: "redis", url, markerTtlSeconds: 1000 });
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
    ["a user's count that is no number", ["HSET", "user:U2", "order_count", "x"]],
    ["a board of another type", ["SET", "orders:board:y:2024", "x"]],
    ["counts of a board of another type", ["SET", "orders:board:w:2024-W50:orders", "x"]],
    ["days of another type", ["SET", "orders:days", "x"]],
  ])("record() writes nothing where Redis holds %s", async (_, [name = "", ...args]) => {
    const url = redisServer.freshUrl();
    const store = await openStore({ kind: "redis", url, markerTtlSeconds: 1000 });
    const redis = new Redis(url);
    await redis.call(name, ...args);
    const before = (await redis.keys("*")).sort();
    await expect(store.record([order({ userId: "U1" }), order({ userId: "U2" })])).rejects.toThrow();
    expect((await redis.keys("*")).sort()).toEqual(before);
    redis.disconnect();
    await store.close();
  });

  test("advice() names what would lose orders, and nothing where all is well", async () => {
    const server = await startRedisServer();
    const store = await openStore({ kind: "redis", url: server.freshUrl(), markerTtlSeconds: 1000 });
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
    const store = await openStore({ kind: "redis", url: `redis://127.0.0.1:${port}/990`, markerTtlSeconds: 1000 });
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
    const store = await openStore({ kind: "redis", url, markerTtlSeconds: 1000 });
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
    const store = await openStore({ kind: "redis", url: server.freshUrl(), markerTtlSeconds: 1000 });
    const kept = order();
    await store.record([kept]);
    await server.kill();
    await store.check().catch(() => {}); // the client notices
    const before = performance.now();
    await expect(store.record([order()])).rejects.toThrow();
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

  test("opening rejects with one sentence, without the password, when Redis is not there", async () => {
    const opening = openStore({ kind: "redis", url: "redis://u:secret@127.0.0.1:1", markerTtlSeconds: 1 });
    await expect(opening).rejects.toThrow(
      /^Cannot reach Redis at redis:\/\/u:[^s]*@127\.0\.0\.1:1: connection refused/,
    );
  });
});

describe("sqlite", () => {
  test("an order id is counted again only after its marker's time", async () => {
    const path = join(temporaryFolder(), "orders.db");
    const past = await openStore({ kind: "sqlite", path, markerTtlSeconds: -1 });
    await past.record([order({ id: "old" })]);
    await past.close();
    const store = await openStore({ kind: "sqlite", path, markerTtlSeconds: 1000 });
    await store.record([order({ id: "new" })]); // prunes what has expired
    expect(await store.record([order({ id: "old" }), order({ id: "new" })])).toEqual(["recorded", "duplicate"]);
    await store.close();
  });

  test("opening rejects with one sentence when the file cannot be made", async () => {
    await expect(openStore({ kind: "sqlite", path: "/proc/nowhere/orders.db", markerTtlSeconds: 1 })).rejects.toThrow(
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
