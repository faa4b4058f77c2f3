import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { Redis } from "ioredis";
import { auditStore } from "../store/audit.ts";
import { openStore, type StoreAddress } from "../store/open.ts";
import { openRedisImport } from "../store/redis-import.ts";
import type { FullStore, Order, RecentOrder } from "../store/store.ts";
import { order } from "./support/orders.ts";
import { temporaryFolder } from "./support/program.ts";
import { type RedisCluster, startRedisCluster } from "./support/redis-cluster.ts";
import { type RedisServer, startRedisServer } from "./support/redis-server.ts";
import { waitFor } from "./support/wait-for.ts";

// Real processes on a busy machine: bun's five seconds would fail a test that is only slow.
setDefaultTimeout(120_000);

const ROOT = join(import.meta.dir, "..");
let redis: RedisServer;
let cluster: RedisCluster;
beforeAll(async () => {
  [redis, cluster] = await Promise.all([startRedisServer(), startRedisCluster()]);
});
afterAll(() => Promise.all([redis.stop(), cluster.stop()]));

/** An empty store: its address, and how the environment of the program and the options of the command name it. */
interface Location {
  address: StoreAddress;
  env: Record<string, string>;
  options: string[];
}
const LOCATIONS: Record<string, () => Promise<Location>> = {
  sqlite: async () => {
    const dir = temporaryFolder();
    return { address: { kind: "sqlite", path: join(dir, "orders.db") }, env: { DATA_DIR: dir }, options: [] };
  },
  redis: async () => {
    const url = redis.freshUrl();
    return { address: { kind: "redis", url }, env: { REDIS_URL: url }, options: ["--to", url] };
  },
  cluster: async () => {
    await cluster.flush();
    const nodes = cluster.ports.map((port) => `127.0.0.1:${port}`).join();
    return { address: cluster.address(), env: { REDIS_CLUSTER_NODES: nodes }, options: ["--to-cluster", nodes] };
  },
};
const locate = async (kind: string) => (await LOCATIONS[kind]?.()) as Location;

function copy(env: Record<string, string>, ...args: string[]) {
  const child = Bun.spawn([process.execPath, "scripts/copy-store.ts", ...args], {
    cwd: ROOT,
    env: { PATH: process.env.PATH ?? "", ...env },
    stdout: "pipe",
    stderr: "pipe",
  });
  const ended = async () => {
    const [code, out, err] = await Promise.all([child.exited, child.stdout.text(), child.stderr.text()]);
    return { code, out, err };
  };
  return { child, ended };
}

/** More users than a sorted set of first users holds, over two years. */
const someOrders = (count: number) =>
  Array.from({ length: count }, (_, index) =>
    order({
      userId: `U${(index * 7919) % 1300}`,
      cents: (index * 31) % 9973,
      day: index % 2 ? "2024-12-30" : "2023-06-01",
    }),
  );
const RECENT: RecentOrder[] = ["a", "b"].map((messageId) => ({ outcome: "duplicate", atMs: 1, messageId }));

async function recordAll(store: FullStore, orders: readonly Order[]) {
  for (let at = 0; at < orders.length; at += 200) await store.record(orders.slice(at, at + 200));
}

/** All numbers of a store. */
async function snapshot(store: FullStore) {
  const users: object[] = [];
  for await (const page of store.users()) users.push(...page);
  const { differences, ...sums } = await auditStore(store, () => {});
  expect(differences).toEqual([]);
  const leaderboards = ["y:2023", "w:2025-W01", "m:2024-12", "d:2023-06-01"];
  const tops = await Promise.all(leaderboards.map((leaderboard) => store.top(leaderboard, 1000)));
  const recent = [...(await store.recent("duplicate", 9)), await store.history("a"), await store.history("b")];
  return { sums, users: users.map((user) => JSON.stringify(user)).sort(), tops, recent };
}

test.each([
  ["sqlite", "redis"],
  ["sqlite", "cluster"],
  ["redis", "cluster"],
  ["cluster", "redis"],
])("from %s to %s: copies every number and marker, and the source records nothing any more", async (from, to) => {
  const [source, target] = [await locate(from), await locate(to)];
  await using old = await openStore(source.address).then((store) => ({ store, [Symbol.asyncDispose]: store.close }));
  const orders = someOrders(4000);
  await recordAll(old.store, orders);
  await old.store.addRecent(RECENT);
  const latest = [{ outcome: "rejected", atMs: Date.now(), messageId: "m", reason: "invalid_order" }] as const;
  const history = { outcome: "rejected", orderId: "a", count: 3, latest } as const;
  await old.store.addHistory([history, { ...history, orderId: "b", count: 1 }]);
  const before = await snapshot(old.store);
  const { code, out, err } = await copy(source.env, ...target.options).ended();
  expect([code, out]).toEqual([0, expect.stringMatching(/^Copied 4,000 orders of 1,300 users, .* with 4,000 markers/)]);
  expect(err).toContain("The source is closed");
  await expect(old.store.record([order()])).rejects.toThrow(
    "its orders are being copied to another store, or have been",
  );
  await expect(old.store.check()).rejects.toThrow("the store is closed");
  await using fresh = await openStore(target.address).then((store) => ({ store, [Symbol.asyncDispose]: store.close }));
  expect(await snapshot(fresh.store)).toEqual(before);
  await fresh.store.checkThoroughly();
  for (let at = 0; at < orders.length; at += 500)
    expect(new Set(await fresh.store.record(orders.slice(at, at + 500)))).toEqual(new Set(["duplicate"]));
  expect(await fresh.store.record([order()])).toEqual(["recorded"]);
  expect(await fresh.store.markerWindowSeconds()).toBe(await old.store.markerWindowSeconds());
});

test.each([
  ["sqlite", "redis"],
  ["redis", "cluster"],
])("from %s to %s: the target has the time zone of the source", async (from, to) => {
  const [source, target] = [await locate(from), await locate(to)];
  const old = await openStore({ ...source.address, timeZone: "America/New_York" });
  await old.record([order()]);
  // Whatever time zone the environment has: it is for programs that count.
  expect((await copy({ ...source.env, TIME_ZONE: "Asia/Tokyo" }, ...target.options).ended()).code).toBe(0);
  await expect(openStore({ ...target.address, timeZone: "UTC" })).rejects.toThrow("TIME_ZONE=America/New_York");
  const fresh = await openStore({ ...target.address, timeZone: "America/New_York" });
  expect(await fresh.record([order()])).toEqual(["recorded"]);
  await Promise.all([old.close(), fresh.close()]);
});

test("killed at any moment and run again, while processes count and the target is open to them", async () => {
  const [source, target] = [await locate("redis"), await locate("cluster")];
  const old = await openStore(source.address);
  await recordAll(old, someOrders(20_000));
  const fresh = await openStore(target.address);
  // Like two consumers: what the closed source refuses is recorded in the target as soon as that is open.
  const later = someOrders(200);
  const recordInEither = (one: Order) => old.record([one]).catch(() => fresh.record([one]).catch(() => undefined));
  const counting = later.map((one) => waitFor("an open store", () => recordInEither(one), 60_000));
  for (const waitMs of [60, 150, 250, 350, 500, 700]) {
    const { child } = copy(source.env, ...target.options);
    await Bun.sleep(waitMs); // at an arbitrary point
    child.kill("SIGKILL");
    await child.exited;
  }
  const { code, err } = await copy(source.env, ...target.options).ended();
  // The last copy that was killed may have been finished.
  if (code !== 0) expect(err).toContain("The target contains orders");
  await Promise.all(counting);
  const { differences, orders } = await auditStore(fresh, () => {});
  expect([differences, orders]).toEqual([[], 20_200]);
  await Promise.all([old.close(), fresh.close()]);
});

test("a target takes no orders before its copy is finished, and none while that is repeated", async () => {
  const target = await locate("redis");
  const fresh = await openStore(target.address);
  const copied = await openRedisImport({ url: target.env.REDIS_URL ?? "" }, "UTC");
  await copied.begin(1, 3600);
  await expect(fresh.record([order()])).rejects.toThrow("the store is closed: a copy into it has not finished");
  await expect(fresh.check()).rejects.toThrow("a copy into it has not finished");
  copied.close();
  // As when it was killed here.
  const again = await openRedisImport({ url: target.env.REDIS_URL ?? "" }, "UTC");
  await again.begin(1, 3600);
  await expect(fresh.record([order()])).rejects.toThrow("has not finished");
  again.close();
  await fresh.close();
});

describe("a copy is refused", () => {
  test("into a store with orders, which stays as it is", async () => {
    const [source, target] = [await locate("sqlite"), await locate("redis")];
    const [old, fresh] = [await openStore(source.address), await openStore(target.address)];
    await old.record([order()]);
    await fresh.record([order(), order()]);
    const { code, err } = await copy(source.env, ...target.options).ended();
    expect([code, err]).toEqual([1, expect.stringContaining("The target contains orders")]);
    expect(await fresh.record([order()])).toEqual(["recorded"]);
    expect(await old.record([order()])).toEqual(["recorded"]);
    await Promise.all([old.close(), fresh.close()]);
  });

  test.each(["redis", "cluster"])("into a %s that was begun with another time zone, and both stay open", async (to) => {
    const [source, target] = [await locate("sqlite"), await locate(to)];
    const old = await openStore({ ...source.address, timeZone: "Europe/Berlin" });
    await old.record([order()]);
    const fresh = await openStore({ ...target.address, timeZone: "UTC" });
    const { code, err } = await copy(source.env, ...target.options).ended();
    const reason = "The target was begun with TIME_ZONE=UTC, the source with Europe/Berlin";
    expect([code, err]).toEqual([1, expect.stringContaining(reason)]);
    expect(await fresh.record([order()])).toEqual(["recorded"]);
    expect(await old.record([order()])).toEqual(["recorded"]);
    await Promise.all([old.close(), fresh.close()]);
  });

  test("from a store that does not exist or is empty, and nothing is created", async () => {
    const target = await locate("redis");
    const dir = join(temporaryFolder(), "none");
    const missing = await copy({ DATA_DIR: dir }, ...target.options).ended();
    expect([missing.code, missing.err]).toEqual([1, expect.stringContaining(`There is no store at ${dir}`)]);
    expect(await Bun.file(join(dir, "orders.db")).exists()).toBeFalse();
    const empty = await copy((await locate("redis")).env, ...target.options).ended();
    expect([empty.code, empty.err]).toEqual([1, expect.stringContaining("The source contains no orders")]);
  });

  test("--reopen opens neither a target nor a store that is open", async () => {
    const target = await locate("redis");
    (await openRedisImport({ url: target.env.REDIS_URL ?? "" }, "UTC")).close();
    expect(await copy(target.env, "--reopen").ended()).toMatchObject({
      code: 1,
      err: expect.stringContaining("has not finished"),
    });
    expect(await copy((await locate("redis")).env, "--reopen").ended()).toMatchObject({ code: 1 });
  });

  test("two copies at once: the one that was started first ends and opens nothing", async () => {
    const { env } = await locate("redis");
    const [first, second] = [
      await openRedisImport({ url: env.REDIS_URL ?? "" }, "UTC"),
      await openRedisImport({ url: env.REDIS_URL ?? "" }, "UTC"),
    ];
    await first.begin(1, 3600);
    await second.begin(1, 3600);
    await expect(first.addUsers([{ userId: "U1", orders: 1, cents: 1 }])).rejects.toThrow(
      "another copy into the target",
    );
    await expect(first.finish()).rejects.toThrow("another copy into the target");
    await second.finish();
    first.close();
    second.close();
  });

  test("into the same store", async () => {
    const source = await locate("redis");
    const old = await openStore(source.address);
    await old.record([order()]);
    const { code, err } = await copy(source.env, ...source.options).ended();
    expect([code, err]).toEqual([1, expect.stringContaining("The target contains orders")]);
    await old.close();
  });

  test("over a user's key of another program, unless a prefix avoids it", async () => {
    const [source, target] = [await locate("sqlite"), await locate("redis")];
    const client = new Redis(target.env.REDIS_URL ?? "");
    await client.set("user:U7", "somebody else's");
    const old = await openStore(source.address);
    await old.record([order({ userId: "U7" })]);
    const { code, err } = await copy(source.env, ...target.options).ended();
    expect([code, err]).toEqual([1, expect.stringContaining("user:U7 in the target holds data of another program")]);
    expect(await client.get("user:U7")).toBe("somebody else's");
    await expect(old.record([order()])).rejects.toThrow("closed");
    expect((await copy(source.env, "--reopen").ended()).code).toBe(0);
    expect(await old.record([order({ userId: "U7" })])).toEqual(["recorded"]);
    expect((await copy(source.env, ...target.options, "--prefix", "shop1").ended()).code).toBe(0);
    expect(await client.hgetall("shop1:user:U7")).toEqual({ order_count: "2", total_spend: "20.00" });
    client.disconnect();
    await old.close();
  });

  test.each([[[]], [["--to", "redis://127.0.0.1:1", "--reopen"]]])("with the options %j", async (options) => {
    const { code, err } = await copy({ DATA_DIR: temporaryFolder() }, ...options).ended();
    expect([code, err]).toEqual([2, "Give one of --to, --to-cluster and --reopen\n"]);
  });

  test.each([
    [["--to", "http://127.0.0.1"], "REDIS_URL must be redis://host:port"],
    [["--to", "redis://127.0.0.1:1"], "Cannot reach Redis at redis://127.0.0.1:1"],
    [["--to-cluster", "x"], "REDIS_CLUSTER_NODES must be host:port"],
  ])("with the target %j, before the source is closed", async (options, problem) => {
    const source = await locate("sqlite");
    const old = await openStore(source.address);
    await old.record([order()]);
    const { code, err } = await copy(source.env, ...options).ended();
    expect([code, err]).toEqual([1, expect.stringContaining(problem)]);
    expect(await old.record([order()])).toEqual(["recorded"]);
    await old.close();
  });
});
