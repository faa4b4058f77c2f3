import { Database } from "bun:sqlite";
import { afterAll, afterEach, beforeAll, describe, expect, setDefaultTimeout, setSystemTime, test } from "bun:test";
import { join } from "node:path";
import { Redis } from "ioredis";
import { createListings } from "../store/listing.ts";
import { openRedisStore } from "../store/redis.ts";
import { openSqliteStore } from "../store/sqlite.ts";
import type { Order, UserTotals, WholeStore } from "../store/store.ts";
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
afterEach(() => void setSystemTime());

interface Prepared extends AsyncDisposable {
  store: WholeStore;
  /** The seconds that the listing is still kept. */
  secondsLeft(id: string): Promise<number>;
  /** Lets the time of the listing be over. */
  expire(id: string): Promise<unknown>;
}

async function prepareRedis(): Promise<Prepared> {
  const url = redisServer.freshUrl();
  const redis = new Redis(url);
  const store = await openRedisStore({ url });
  const dispose = async () => {
    redis.disconnect();
    await store.close();
  };
  return {
    store,
    secondsLeft: (id) => redis.ttl(`orders:listing:${id}`),
    expire: (id) => redis.pexpire(`orders:listing:${id}`, 1),
    [Symbol.asyncDispose]: dispose,
  };
}

async function prepareSqlite(): Promise<Prepared> {
  const path = join(temporaryFolder(), "orders.db");
  const store = openSqliteStore({ path });
  const db = new Database(path);
  const end = db.prepare<{ ms: number }, [string]>("SELECT min(expires_at_ms) AS ms FROM listings WHERE id = ?");
  const dispose = async () => {
    end.finalize();
    db.close();
    await store.close();
  };
  return {
    store,
    secondsLeft: async (id) => ((end.get(id)?.ms ?? 0) - Date.now()) / 1000,
    expire: async (id) => db.run("UPDATE listings SET expires_at_ms = ? WHERE id = ?", [Date.now(), id]),
    [Symbol.asyncDispose]: dispose,
  };
}

const PREPARE: Record<string, () => Promise<Prepared>> = { redis: prepareRedis, sqlite: prepareSqlite };

/** Thousands of orders of 2500 users over three years; many spend the same. */
const ORDERS = Array.from({ length: 6000 }, (_, index) =>
  order({
    userId: `U${(index * 7919) % 2500}`,
    cents: ((index * 31) % 7) * 100,
    day: ["2023-12-31", "2024-06-01", "2025-01-01"][index % 3] as string,
  }),
);

async function recordAll(store: WholeStore, orders: readonly Order[]) {
  for (let at = 0; at < orders.length; at += 500) await store.record(orders.slice(at, at + 500));
}

/** All users of the orders in the order of a listing, added up here. */
function ranked(orders: readonly Order[]): UserTotals[] {
  const sums = new Map<string, UserTotals>();
  for (const { userId, cents } of orders) {
    const held = sums.get(userId) ?? { userId, orders: 0, cents: 0 };
    sums.set(userId, { userId, orders: held.orders + 1, cents: held.cents + cents });
  }
  return [...sums.values()].sort(
    (a, b) => b.cents - a.cents || Buffer.compare(Buffer.from(a.userId), Buffer.from(b.userId)),
  );
}

const UNKNOWN = "00000000-0000-4000-8000-000000000000";

describe.each(Object.keys(PREPARE))("%s", (kind) => {
  const prepare = PREPARE[kind] as () => Promise<Prepared>;

  test("pages neither skip nor repeat while orders arrive, and another process reads them too", async () => {
    await using prepared = await prepare();
    const { store } = prepared;
    await recordAll(store, ORDERS);
    const before = Date.now();
    const { id, asOfMs, users } = await createListings(store).begin();
    expect(asOfMs).toBeWithin(before, Date.now() + 1);
    expect(users).toBe(2500);
    const found: UserTotals[] = [];
    const other = createListings(store);
    while (found.length < users) {
      // The last become the first, and somebody new comes.
      await store.record([order({ userId: `U${found.length}`, cents: 1e6 }), order({ userId: `new ${found.length}` })]);
      const page = await other.page(id, found.length, 170);
      expect(page?.users.length).toBe(Math.min(170, 2500 - found.length));
      found.push(...(page?.users ?? []));
    }
    expect(found).toEqual(ranked(ORDERS));
  });

  test("a page has what was asked for, over a part's border and past the end", async () => {
    await using prepared = await prepare();
    await recordAll(prepared.store, ORDERS);
    const { begin, page } = createListings(prepared.store);
    const { id } = await begin();
    const all = ranked(ORDERS);
    for (const [offset, limit] of [
      ...[
        [0, 1],
        [0, 1000],
        [999, 1],
        [999, 2],
        [1000, 1],
        [1990, 20],
        [900, 1200],
      ],
      ...[
        [0, 10_000],
        [2499, 1],
        [2499, 2],
        [2500, 1],
        [2999, 10],
        [3000, 10],
        [1e9, 10],
      ],
    ] as [number, number][])
      expect(await page(id, offset, limit)).toEqual({ users: all.slice(offset, offset + limit) });
  });

  test("ties come in the byte order of the user ids, whatever their characters", async () => {
    await using prepared = await prepare();
    const tied = ["b", "a", "aa", "B", "é", "z", "😀", "😁", "\uffee", "\ud7ff", "𐀀", "😀\ue000", "", "a b", "10", "9"];
    const orders = [...tied, "__proto__", "a\0"].map((userId) => order({ userId, cents: 100 }));
    await recordAll(prepared.store, [
      ...orders,
      order({ userId: "rich", cents: 101 }),
      order({ userId: "0", cents: 0 }),
    ]);
    const { begin, page } = createListings(prepared.store);
    const found = (await page((await begin()).id, 0, 100))?.users.map(({ userId }) => userId);
    expect(found).toEqual(["rich", ...ranked(orders).map(({ userId }) => userId), "0"]);
  });

  test("a listing of an empty store has no users, and is one", async () => {
    await using prepared = await prepare();
    const { begin, page } = createListings(prepared.store);
    const { id, users } = await begin();
    expect(users).toBe(0);
    expect(await page(id, 0, 10)).toEqual({ users: [] });
    expect(await page(id, 10, 10)).toEqual({ users: [] });
  });

  test("a listing is kept for a quarter of an hour; then, as one that never was, it has no pages", async () => {
    await using prepared = await prepare();
    await recordAll(prepared.store, ORDERS);
    const { begin, page } = createListings(prepared.store);
    const { id } = await begin();
    expect(await prepared.secondsLeft(id)).toBeWithin(880, 901);
    await prepared.expire(id);
    await waitFor("its end", async () => (await page(id, 0, 10)) === undefined);
    for (const offset of [990, 2500, 1e9]) expect(await page(id, offset, 20)).toBeUndefined();
    expect(await page(UNKNOWN, 0, 10)).toBeUndefined();
  });

  test("a listing that ends between two parts of a page has no page, rather than a short one", async () => {
    await using prepared = await prepare();
    await recordAll(prepared.store, ORDERS);
    const { id } = await createListings(prepared.store).begin();
    const { page } = createListings({
      ...prepared.store,
      async listingPart(id, index) {
        const part = await prepared.store.listingPart(id, index);
        await prepared.expire(id);
        await waitFor("its end", async () => (await prepared.store.listingPart(id, 0)) === undefined);
        return part;
      },
    });
    expect(await page(id, 990, 20)).toBeUndefined();
  });

  test("an id of another form is not looked for", async () => {
    await using prepared = await prepare();
    const { page } = createListings(prepared.store);
    for (const id of ["mine", "", "*", `${UNKNOWN}\n`, ` ${UNKNOWN}`, UNKNOWN.replaceAll("-", ""), "../x"]) {
      await prepared.store.keepListing(id, ['[["U1",1,1]]'], 60);
      expect(await page(id, 0, 10)).toBeUndefined();
    }
    await prepared.store.keepListing(UNKNOWN, ['[["U1",1,1]]'], 60);
    expect(await page(UNKNOWN, 0, 10)).toEqual({ users: [{ userId: "U1", orders: 1, cents: 1 }] });
  });

  test("those who begin at the same time or within half a minute share one, later ones do not", async () => {
    await using prepared = await prepare();
    await recordAll(prepared.store, ORDERS);
    const { begin } = createListings(prepared.store);
    const [first, ...others] = await Promise.all([begin(), begin(), begin()]);
    expect(others).toEqual([first, first]);
    await prepared.store.record([order({ userId: "new" })]);
    setSystemTime(first.asOfMs + 30_000);
    expect(await begin()).toEqual(first);
    setSystemTime(first.asOfMs + 30_001);
    const [second, same] = await Promise.all([begin(), begin()]);
    expect(second).toEqual({ id: expect.any(String), asOfMs: first.asOfMs + 30_001, users: 2501 });
    expect(second.id).not.toBe(first.id);
    expect(same).toEqual(second);
    // The clock is set back.
    setSystemTime(first.asOfMs - 60_000);
    expect((await begin()).id).not.toBe(second.id);
  });

  test("one that takes longer than half a minute is shared while it is made, one that fails is not kept", async () => {
    await using prepared = await prepare();
    await prepared.store.record([order()]);
    let days = Promise.withResolvers<string[]>();
    let reads = 0;
    const { begin } = createListings({
      ...prepared.store,
      days() {
        reads++;
        return days.promise;
      },
    });
    const slow = begin();
    setSystemTime(Date.now() + 60_000);
    const late = begin();
    days.resolve(await prepared.store.days());
    expect(await late).toEqual(await slow);
    expect(reads).toBe(1);

    days = Promise.withResolvers();
    const failing = Promise.allSettled([begin(), begin()]);
    days.reject(new Error("no store"));
    expect((await failing).map(({ status }) => status)).toEqual(["rejected", "rejected"]);
    expect(reads).toBe(2);
    days = Promise.withResolvers();
    days.resolve(await prepared.store.days());
    expect((await begin()).users).toBe(1);
    expect(reads).toBe(3);
  });
});
