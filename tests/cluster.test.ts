import { afterAll, beforeAll, beforeEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { Redis } from "ioredis";
import { auditStore } from "../store/audit.ts";
import { openStore, type StoreAddress } from "../store/open.ts";
import type { FullStore, Order } from "../store/store.ts";
import { order } from "./support/orders.ts";
import { cli, type RedisCluster, startRedisCluster } from "./support/redis-cluster.ts";
import { waitFor } from "./support/wait-for.ts";

// Real processes on a busy machine: bun's five seconds would fail a test that is only slow.
setDefaultTimeout(120_000);

let cluster: RedisCluster;
beforeAll(async () => {
  cluster = await startRedisCluster();
});
afterAll(() => cluster.stop());
beforeEach(() => cluster.flush());

async function open(address: StoreAddress = cluster.address()) {
  const store = await openStore(address);
  return { store, [Symbol.asyncDispose]: () => store.close() };
}

const DAYS = ["2023-12-31", "2024-01-01", "2024-12-13", "2024-12-30", "2025-01-01"];
const someOrders = (count: number) =>
  Array.from({ length: count }, (_, index) =>
    order({ userId: `U${(index * 7919) % 1500}`, cents: (index * 31) % 9973, day: DAYS[index % 5] as string }),
  );

async function recordAll(store: FullStore, orders: readonly Order[], batch = 100) {
  for (let at = 0; at < orders.length; at += batch) await store.record(orders.slice(at, at + batch));
}

const sumOf = (orders: readonly Order[]) => ({
  orders: orders.length,
  cents: orders.reduce((sum, { cents }) => sum + cents, 0),
});

async function findingsOf(store: FullStore) {
  const { differences, moved, orders, cents } = await auditStore(store, () => {});
  return { differences, moved, orders, cents };
}

const succeeds = (call: Promise<unknown>) =>
  call.then(
    () => true,
    () => false,
  );

const slotOf = async (tag: string) => Number(await cli(cluster.ports[0] ?? 0, "CLUSTER", "KEYSLOT", tag));
const keysOn = async (port: number) => Number(await cli(port, "DBSIZE"));

describe("one slot", () => {
  test("holds every key, the two public hashes with their names behind the hash tag", async () => {
    await using opened = await open();
    await recordAll(opened.store, someOrders(2000));
    await opened.store.record([order({ userId: "U5678", cents: 1999 })]);
    await opened.store.check();
    const { port } = await cluster.masterOf(await slotOf("{orders}"));
    expect(await cli(port, "HGETALL", "{orders}user:U5678")).toBe("order_count,1,total_spend,19.99");
    expect(await cli(port, "HGET", "{orders}global:stats", "total_orders")).toBe("2001");
    for (const other of (await cluster.masters()).filter((master) => master.port !== port))
      expect(await keysOn(other.port)).toBe(0);
  });

  test("of each shop, by its prefix: two shops on two masters see nothing of each other", async () => {
    const prefixes = ["shop1", "shop2", "shop3", "shop4", "shop5", "shop6"];
    const ports = await Promise.all(
      prefixes.map(async (prefix) => (await cluster.masterOf(await slotOf(`{${prefix}}`))).port),
    );
    const second = ports.findIndex((port) => port !== ports[0]);
    await using one = await open(cluster.address({ keyPrefix: prefixes[0] as string }));
    await using other = await open(cluster.address({ keyPrefix: prefixes[second] as string }));
    const orders = someOrders(500);
    await Promise.all([recordAll(one.store, orders), recordAll(other.store, orders.slice(0, 200))]);
    expect(await findingsOf(one.store)).toEqual({ differences: [], moved: false, ...sumOf(orders) });
    expect(await findingsOf(other.store)).toEqual({ differences: [], moved: false, ...sumOf(orders.slice(0, 200)) });
    expect(await cli(ports[0] ?? 0, "EXISTS", `{${prefixes[0]}}user:U0`)).toBe("1");
    expect(await cli(ports[second] ?? 0, "EXISTS", `{${prefixes[second]}}user:U0`)).toBe("1");
  });

  test("scripts that a node has forgotten are sent again, and waited for behind that", async () => {
    await using opened = await open(cluster.address({ waitReplicas: 1 }));
    const orders = someOrders(200);
    await recordAll(opened.store, orders.slice(0, 100));
    const { port } = await cluster.masterOf(await slotOf("{orders}"));
    const seen: string[] = [];
    const monitor = await new Redis(port).monitor();
    monitor.on("monitor", (_, [name = ""]: string[]) => {
      if (/^(eval|evalsha|wait)$/i.test(name)) seen.push(name.toLowerCase());
    });
    await cli(port, "SCRIPT", "FLUSH");
    await opened.store.record(orders.slice(100));
    await waitFor("the last command", () => seen.at(-1) === "wait" && seen.includes("eval"));
    expect(seen).toEqual(["evalsha", "wait", "eval", "wait"]);
    monitor.disconnect();
    expect(await opened.store.global()).toEqual(sumOf(orders));
  });
});

describe("while the slot moves to another node", () => {
  test("no order is counted until it has moved, whichever node has which keys, and then each once", async () => {
    await using opened = await open();
    const { store } = opened;
    const orders = someOrders(400);
    await recordAll(store, orders.slice(0, 200));
    const slot = `${await slotOf("{orders}")}`;
    const source = await cluster.masterOf(Number(slot));
    const target = (await cluster.masters()).find(({ id }) => id !== source.id);
    if (!target) throw new Error("there is no other master");
    await cli(target.port, "CLUSTER", "SETSLOT", slot, "IMPORTING", source.id);
    await cli(source.port, "CLUSTER", "SETSLOT", slot, "MIGRATING", target.id);
    const keysThere = async () => (await cli(source.port, "CLUSTER", "GETKEYSINSLOT", slot, "10000")).split(",");
    const migrate = async (keys: string[]) => {
      for (const key of keys.filter(Boolean))
        expect(await cli(source.port, "MIGRATE", "127.0.0.1", `${target.port}`, key, "0", "5000")).toBe("OK");
    };
    const isRefused = async () => {
      await expect(store.check()).rejects.toThrow("Redis does not accept orders");
      await expect(store.record(orders.slice(0, 250))).rejects.toThrow();
    };
    await isRefused();
    const all = await keysThere();
    expect(all.length).toBeGreaterThan(20);
    // Some of the markers away, then the key that the script is sent to, which makes clients go to the other node.
    await migrate(all.filter((key) => key.includes("orders:ids:")).slice(0, 5));
    await isRefused();
    await migrate(["{orders}global:stats"]);
    await isRefused();
    await migrate(await keysThere());
    for (const { port } of [target, source]) await cli(port, "CLUSTER", "SETSLOT", slot, "NODE", target.id);
    // The client learns of it within a second, and refuses some calls before.
    await waitFor("the slot to have moved", () => succeeds(Promise.all([store.record(orders), store.global()])));
    expect(await findingsOf(store)).toEqual({ differences: [], moved: false, ...sumOf(orders) });
  });

  test("under load, there and back: all orders count once", async () => {
    await using opened = await open();
    const { store } = opened;
    const slot = await slotOf("{orders}");
    const [first, second] = [await cluster.masterOf(slot), (await cluster.masters()).at(0)];
    const other = (await cluster.masters()).find(({ id }) => id !== first.id) ?? second;
    const orders = someOrders(20_000);
    let at = 0;
    let moving = true;
    const moved = (async () => {
      await waitFor("a few orders", () => at >= 500);
      await cluster.moveSlot(slot, other as NonNullable<typeof other>);
      const before = at;
      await waitFor("more orders", () => at > before + 200);
      await cluster.moveSlot(slot, first);
      moving = false;
    })();
    while (moving && at < orders.length) if (await succeeds(store.record(orders.slice(at, at + 50)))) at += 50;
    await moved;
    await waitFor("the store", () => succeeds(store.check()));
    expect(await findingsOf(store)).toEqual({ differences: [], moved: false, ...sumOf(orders.slice(0, at)) });
  });
});

test("a user and password for all nodes", async () => {
  for (const port of cluster.ports) await cli(port, "ACL", "SETUSER", "shop", "on", ">secret", "~*", "+@all");
  await using opened = await open(cluster.address({ username: "shop", password: "secret" }));
  expect(await opened.store.record([order()])).toEqual(["recorded"]);
  await expect(open(cluster.address({ username: "shop", password: "guess" }))).rejects.toThrow(
    "user or password is wrong",
  );
});

test("REDIS_WAIT_REPLICAS: nothing is recorded that a replica does not have, and it counts once when that is back", async () => {
  await using opened = await open(cluster.address({ waitReplicas: 1 }));
  const orders = someOrders(30);
  await recordAll(opened.store, orders);
  const { id } = await cluster.masterOf(await slotOf("{orders}"));
  const replicas = (await cluster.nodes()).filter(({ master }) => master === id);
  for (const { port } of replicas) await cluster.kill(port);
  const late = someOrders(30);
  await expect(opened.store.record(late)).rejects.toThrow("0 of 1 replicas");
  await expect(opened.store.check()).rejects.toThrow(
    "Redis does not accept orders: only 0 of 1 replicas have it after 1 s: REDIS_WAIT_REPLICAS is 1, replicas connected to Redis: 0",
  );
  for (const { port } of replicas) await cluster.start(port);
  await waitFor("the replicas", cluster.isWhole, 60_000);
  await opened.store.check();
  await opened.store.record(late);
  expect(await opened.store.global()).toEqual(sumOf([...orders, ...late]));
});
