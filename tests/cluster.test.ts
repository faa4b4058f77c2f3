import { afterAll, beforeAll, beforeEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { Redis } from "ioredis";
import { auditStore } from "../store/audit.ts";
import { prefixesOf, shardOf } from "../store/layout.ts";
import { openStore, type StoreAddress } from "../store/open.ts";
import { digestOf } from "../store/shard.ts";
import { MARKER_WINDOW_SECONDS, type Order, type WholeStore } from "../store/store.ts";
import { order } from "./support/orders.ts";
import { cli, type RedisCluster, startRedisCluster } from "./support/redis-cluster.ts";
import { type RedisServer, startRedisServer } from "./support/redis-server.ts";
import { waitFor } from "./support/wait-for.ts";

// Real processes on a busy machine: bun's five seconds would fail a test that is only slow.
setDefaultTimeout(120_000);

const ROOT = join(import.meta.dir, "..");
let cluster: RedisCluster;
let redis: RedisServer;
beforeAll(async () => {
  [cluster, redis] = await Promise.all([startRedisCluster(), startRedisServer()]);
});
afterAll(() => Promise.all([cluster.stop(), redis.stop()]));
beforeEach(() => cluster.flush());

async function open(address: StoreAddress = cluster.address()) {
  const store = await openStore(address);
  return { store, [Symbol.asyncDispose]: () => store.close() };
}

const DAYS = ["2023-12-31", "2024-01-01", "2024-12-13", "2024-12-30", "2025-01-01"];
/** A command to whichever master has the key; the others refuse it. */
async function onMasters(...command: [string, ...string[]]) {
  const answers: string[] = [];
  for (const { port } of await cluster.masters()) answers.push(await cli(port, ...command));
  return answers;
}

/** Of many users and days, so that every shard has some. */
const someOrders = (count: number) =>
  Array.from({ length: count }, (_, index) =>
    order({ userId: `U${(index * 7919) % 1500}`, cents: (index * 31) % 9973, day: DAYS[index % 5] as string }),
  );

async function recordAll(store: WholeStore, orders: readonly Order[], batch = 100) {
  for (let at = 0; at < orders.length; at += batch) await store.record(orders.slice(at, at + batch));
}

const sumOf = (orders: readonly Order[]) => ({
  orders: orders.length,
  cents: orders.reduce((sum, { cents }) => sum + cents, 0),
});

async function findingsOf(store: WholeStore) {
  const { differences, moved, orders, cents } = await auditStore(store, () => {});
  return { differences, moved, orders, cents };
}

describe("the shards", () => {
  test.each([2, 3, 16, 32, 256])("%i of them are spread evenly over masters that share the slots evenly", (shards) => {
    const prefixes = prefixesOf(shards);
    expect(new Set(prefixes).size).toBe(shards);
    const users = Array.from({ length: shards * 200 }, (_, index) => shardOf(`U${index}`, shards));
    for (let shard = 0; shard < shards; shard++)
      expect(users.filter((one) => one === shard).length).toBeGreaterThan(100);
  });

  test("of 16 lie five or six on each of three masters", async () => {
    await using opened = await open();
    await recordAll(opened.store, someOrders(2000));
    const perMaster = await Promise.all(
      (await cluster.masters()).map(async ({ port }) => (await cli(port, "KEYS", "{*}global:stats")).split(",").length),
    );
    expect(perMaster.sort()).toEqual([5, 5, 6]);
  });

  test("have the plain names of the contract behind their tags", async () => {
    await using opened = await open();
    await opened.store.record([order({ userId: "U5678", cents: 1999 })]);
    const tag = prefixesOf(16)[shardOf("U5678", 16)];
    const answers = await Promise.all(
      (await cluster.masters()).map(({ port }) => cli(port, "HGETALL", `${tag}user:U5678`)),
    );
    expect(answers).toContain("order_count,1,total_spend,19.99");
  });

  test("a process that wants another number of them uses those that are there", async () => {
    await using first = await open();
    await using second = await open(cluster.address({ shards: 7 }));
    const orders = someOrders(50);
    await recordAll(first.store, orders);
    expect(await second.store.record(orders)).toEqual(Array(50).fill("duplicate"));
    expect(await second.store.global()).toEqual(sumOf(orders));
  });

  test("whoever only reads leaves an empty cluster empty", async () => {
    await using opened = await open();
    expect(await findingsOf(opened.store)).toEqual({ differences: [], moved: false, orders: 0, cents: 0 });
    expect(await opened.store.top("y:2024", 10)).toEqual([]);
    const left = await Promise.all((await cluster.masters()).map(({ port }) => cli(port, "DBSIZE")));
    expect(left).toEqual(["0", "0", "0"]);
    await opened.store.check();
    expect(await onMasters("GET", "orders:layouts")).toContain("16");
  });

  test("a cluster that has lost the number of its shards takes no orders, rather than count old ones again", async () => {
    await using opened = await open();
    await recordAll(opened.store, someOrders(100));
    await onMasters("DEL", "orders:layouts");
    await expect(open()).rejects.toThrow("orders:layouts, which tells how many shards there are, is lost");
    await waitFor("the running one to notice", () =>
      opened.store.check().then(
        () => false,
        () => true,
      ),
    );
    await expect(opened.store.check()).rejects.toThrow("is lost: restore it");
    await onMasters("SET", "orders:layouts", "16");
    await waitFor("the running one to go on", () =>
      opened.store.check().then(
        () => true,
        () => false,
      ),
    );
    expect(await opened.store.global()).toMatchObject({ orders: 100 });
  });

  test("an id that comes with users of many shards at once is counted once, for the first that has it", async () => {
    await using first = await open();
    await using second = await open();
    const copies = Array.from({ length: 300 }, (_, index) => ({
      ...order({ userId: `U${index}`, cents: 100 }),
      id: `same-${index % 10}`,
    }));
    const batches = Array.from({ length: 30 }, (_, at) => copies.slice(at * 10, at * 10 + 10));
    const answers = await Promise.all(batches.map((batch, at) => (at % 2 === 0 ? first : second).store.record(batch)));
    expect(answers.flat().filter((answer) => answer === "recorded")).toHaveLength(10);
    expect(await first.store.global()).toEqual({ orders: 10, cents: 1000 });
    expect((await findingsOf(first.store)).differences).toEqual([]);
  });

  test("a batch of which one shard refuses its part is counted once in all, and told as it was first", async () => {
    await using opened = await open();
    const orders = someOrders(60);
    const tag = prefixesOf(16)[shardOf(orders[0]?.userId ?? "", 16)];
    await onMasters("SET", `${tag}orders:days`, "no hash");
    await expect(opened.store.record(orders)).rejects.toThrow("WRONGTYPE");
    const before = (await opened.store.user(orders[1]?.userId ?? "")).orders;
    expect(before).toBe(1);
    await onMasters("DEL", `${tag}orders:days`);
    expect(await opened.store.record(orders)).toEqual(Array(60).fill("recorded"));
    expect(await opened.store.record(orders)).toEqual(Array(60).fill("duplicate"));
    expect(await opened.store.global()).toEqual(sumOf(orders));
  });

  test("scripts that a node has forgotten are sent again, and waited for behind that", async () => {
    await using opened = await open(cluster.address({ waitReplicas: 1 }));
    const orders = someOrders(200);
    await recordAll(opened.store, orders.slice(0, 100));
    const masters = await cluster.masters();
    const seen = masters.map((): string[] => []);
    const monitors = await Promise.all(masters.map(({ port }) => new Redis(port).monitor()));
    for (const [index, monitor] of monitors.entries())
      monitor.on("monitor", (_, [name = ""]: string[]) => {
        if (/^(eval|evalsha|wait)$/i.test(name)) seen[index]?.push(name.toLowerCase());
      });
    for (const { port } of masters) await cli(port, "SCRIPT", "FLUSH");
    await opened.store.record(orders.slice(100));
    await Bun.sleep(100);
    for (const names of seen) {
      expect(names).toContain("eval");
      expect(names.at(-1)).toBe("wait");
    }
    for (const monitor of monitors) monitor.disconnect();
    expect(await opened.store.global()).toEqual(sumOf(orders));
  });

  test.each(["SREM", "SMEMBERS"])(
    "a Redis user without %s counts nothing, and all once when it has the right",
    async (right) => {
      for (const port of cluster.ports) await cli(port, "ACL", "SETUSER", "poor", "reset", "on", ">pw", "~*", "+@all");
      await using opened = await open(cluster.address({ username: "poor", password: "pw" }));
      const orders = someOrders(50);
      for (const port of cluster.ports) await cli(port, "ACL", "SETUSER", "poor", `-${right.toLowerCase()}`);
      await expect(opened.store.record(orders)).rejects.toThrow(`this needs the right to ${right}`);
      for (const port of cluster.ports) await cli(port, "ACL", "SETUSER", "poor", "+@all");
      expect(await opened.store.record(orders)).toEqual(Array(50).fill("recorded"));
    },
  );
});

describe("a slot that moves to another node", () => {
  test("takes no orders until it has moved, whichever node has which keys, and then counts each once", async () => {
    await using opened = await open();
    const { store } = opened;
    const orders = someOrders(400).map((one) => ({ ...one, userId: `U${one.userId}` }));
    await recordAll(store, orders.slice(0, 200));
    const tag = prefixesOf(16)[0] as string;
    const [source, target] = (await cluster.masters()).toSorted((a, b) => (a.slots < b.slots ? -1 : 1));
    if (!source || !target) throw new Error("there are no masters");
    const slot = await cli(source.port, "CLUSTER", "KEYSLOT", tag);
    await cli(target.port, "CLUSTER", "SETSLOT", slot, "IMPORTING", source.id);
    await cli(source.port, "CLUSTER", "SETSLOT", slot, "MIGRATING", target.id);
    const keysThere = async () => (await cli(source.port, "CLUSTER", "GETKEYSINSLOT", slot, "10000")).split(",");
    const migrate = async (keys: string[]) => {
      for (const key of keys.filter(Boolean))
        expect(await cli(source.port, "MIGRATE", "127.0.0.1", `${target.port}`, key, "0", "5000")).toBe("OK");
    };
    const isRefused = async () => {
      await expect(store.check()).rejects.toThrow("non local key");
      await expect(store.record(orders)).rejects.toThrow("non local key");
    };
    await isRefused();
    const all = await keysThere();
    expect(all.length).toBeGreaterThan(20);
    const global = `${tag}global:stats`;
    // Some of the order ids away, then the key that the script is sent to, which makes clients go to the other node.
    await migrate(all.filter((key) => key.includes("orders:ids:")).slice(0, 5));
    await isRefused();
    await migrate([global]);
    await isRefused();
    await migrate(await keysThere());
    for (const { port } of [target, source]) await cli(port, "CLUSTER", "SETSLOT", slot, "NODE", target.id);
    // The client learns of it within a second, and refuses some calls before.
    await waitFor("the slot to have moved", () =>
      Promise.all([store.record(orders), store.global()]).then(
        () => true,
        () => false,
      ),
    );
    expect(await findingsOf(store)).toEqual({ differences: [], moved: false, ...sumOf(orders) });
  });
});

test("opening rejects with one sentence when there is no cluster, or none that lets us in", async () => {
  const address = (nodes: string[]) => ({ ...cluster.address(), nodes }) as StoreAddress;
  await expect(open(address(["127.0.0.1:1"]))).rejects.toThrow(
    "Cannot reach the Redis cluster at 127.0.0.1:1: not connected",
  );
  await expect(open(address([`127.0.0.1:${redis.port}`]))).rejects.toThrow(
    "it is a single Redis. Name it with REDIS_URL",
  );
  const asSingle = open({ kind: "redis", url: `redis://127.0.0.1:${cluster.ports[0]}` });
  await expect(asSingle).rejects.toThrow("it is a node of a Redis Cluster. Name it with REDIS_CLUSTER_NODES");
  for (const port of cluster.ports) await cli(port, "ACL", "SETUSER", "shop", "on", ">secret", "~*", "+@all");
  const shop = cluster.address({ username: "shop", password: "secret" });
  await using opened = await open(shop);
  expect(await opened.store.record([order()])).toEqual(["recorded"]);
  const wrong = cluster.address({ username: "shop", password: "guess" });
  await expect(open(wrong)).rejects.toThrow("WRONGPASS");
});

describe("REDIS_WAIT_REPLICAS", () => {
  test("nothing is answered that a replica does not have, and it counts once when the replica is back", async () => {
    await using opened = await open(cluster.address({ waitReplicas: 1 }));
    const orders = someOrders(30);
    await recordAll(opened.store, orders);
    const replicas = (await cluster.nodes()).filter(({ role }) => role === "replica");
    for (const { port } of replicas) await cluster.kill(port);
    const late = someOrders(30);
    await expect(opened.store.record(late)).rejects.toThrow("0 of 1 replicas");
    await expect(opened.store.check()).rejects.toThrow("Redis takes no orders: only 0 of 1 replicas have it");
    for (const { port } of replicas) await cluster.start(port);
    await waitFor("the replicas", cluster.isWhole, 60_000);
    await opened.store.check();
    await opened.store.record(late);
    expect(await opened.store.global()).toEqual(sumOf([...orders, ...late]));
  });
});

test("REDIS_WAIT_REPLICAS holds for the claim of an id as well", async () => {
  await using opened = await open(cluster.address({ waitReplicas: 1 }));
  const [first] = await cluster.masters();
  const replica = (await cluster.nodes()).find(({ master }) => master === first?.id);
  if (!first || !replica) throw new Error("there is no replica");
  const ranges = first.slots.map((range) => range.split("-").map(Number));
  const isOnFirst = async (shard: number) => {
    const slot = Number(await cli(first.port, "CLUSTER", "KEYSLOT", prefixesOf(16)[shard] ?? ""));
    return ranges.some(([from = 0, to = from]) => slot >= from && slot <= to);
  };
  const onFirst = await Promise.all(Array.from({ length: 16 }, (_, shard) => isOnFirst(shard)));
  const numbers = Array.from({ length: 500 }, (_, number) => number);
  const id = numbers.map((number) => `claimed-${number}`).find((each) => onFirst[digestOf(each).home % 16]);
  const userId = numbers.map((number) => `U${number}`).find((each) => !onFirst[shardOf(each, 16)]);
  const one = { ...order({ userId: userId ?? "" }), id: id ?? "" };
  await cluster.kill(replica.port);
  await expect(opened.store.record([one])).rejects.toThrow("0 of 1 replicas");
  await cluster.start(replica.port);
  await waitFor("the replica", cluster.isWhole, 60_000);
  expect(await opened.store.record([one])).toEqual(["recorded"]);
});

describe("bun scripts/move.ts", () => {
  const nodes = () => cluster.ports.map((port) => `127.0.0.1:${port}`).join();

  function move(env: Record<string, string>, ...args: string[]) {
    const child = Bun.spawn([process.execPath, "scripts/move.ts", "--json", ...args], {
      cwd: ROOT,
      env: { PATH: process.env.PATH ?? "", REDIS_CLUSTER_NODES: nodes(), ...env },
      stdout: "pipe",
      stderr: "pipe",
    });
    async function ended() {
      const [stdout, stderr] = await Promise.all([child.stdout.text(), child.stderr.text()]);
      return { code: await child.exited, stdout, stderr };
    }
    return { child, ended };
  }

  /** Kills a move when it says so; what it was doing then is cut off in the middle. */
  async function killAt(line: string, child: ReturnType<typeof move>["child"]) {
    let said = "";
    for await (const chunk of child.stderr) {
      said += new TextDecoder().decode(chunk);
      if (said.includes(line)) break;
    }
    child.kill("SIGKILL");
    expect(said).toContain(line);
    await child.exited;
  }

  /** Counts orders as a process does, until it is stopped: what is refused is tried again. */
  function startCounting(store: WholeStore, orders: readonly Order[]) {
    let at = 0;
    let stopping = false;
    const counting = (async () => {
      while (!stopping && at < orders.length) {
        const done = await store.record(orders.slice(at, at + 20)).catch(() => Bun.sleep(20));
        if (done) at += 20;
      }
    })();
    async function stop() {
      stopping = true;
      await counting;
    }
    return { at: () => at, stop, done: counting };
  }

  test("moves a single Redis while orders arrive, killed again and again, and counts nothing twice", async () => {
    const url = redis.freshUrl();
    await using old = await open({ kind: "redis", url });
    // More than the first sets of ids are for.
    const orders = someOrders(10_000);
    await recordAll(old.store, orders.slice(0, 7000));
    const counting = startCounting(old.store, orders.slice(7000));
    for (const line of ["pass 1", "pass 2", "Counting stops"]) await killAt(line, move({ REDIS_URL: url }).child);
    const { code, stdout, stderr } = await move({ REDIS_URL: url }).ended();
    expect({ code, stderr: code === 0 ? "" : stderr }).toEqual({ code: 0, stderr: "" });
    expect(stderr).toContain("Counting may go on, in 16 shards");
    // Counting has been stopped since the run before.
    expect(stderr).not.toContain("while orders are counted");
    await counting.stop();
    const counted = 7000 + counting.at();
    expect(JSON.parse(stdout).orders).toBeGreaterThanOrEqual(counted);

    await expect(old.store.record([order()])).rejects.toThrow("closed");
    await expect(old.store.check()).rejects.toThrow(
      /^Redis takes no orders: closed: orders are being moved from here\. Let the move end, or run it again; then start with REDIS_CLUSTER_NODES$/,
    );
    await using moved = await open();
    // What was in hand, and everything that SQS may deliver again.
    await recordAll(moved.store, orders);
    expect(await findingsOf(moved.store)).toEqual({ differences: [], moved: false, ...sumOf(orders) });
    const other = { ...(orders[0] as Order), userId: "somebody else" };
    expect(await moved.store.record([other])).toEqual(["duplicate"]);
    expect(await moved.store.top("y:2024", 1000)).toEqual(await expectedTop(orders, "y:2024"));
  });

  test("moves a cluster to another number of shards under the feet of a process, killed, and removes the old", async () => {
    await using opened = await open();
    const orders = someOrders(6000);
    await recordAll(opened.store, orders.slice(0, 2000));
    const counting = startCounting(opened.store, orders.slice(2000));
    const reading = opened.store.userIds("y:2024")[Symbol.asyncIterator]();
    await reading.next();
    for (const line of ["pass 1", "Counting stops", "Counting may go on"])
      await killAt(line, move({}, "--shards", "32").child);
    const { code, stderr } = await move({}, "--shards", "32").ended();
    expect({ code, stderr: code === 0 ? "" : stderr }).toEqual({ code: 0, stderr: "" });
    await counting.done;
    expect(counting.at()).toBe(4000);
    expect(await opened.store.record(orders.slice(0, 2500))).toEqual(Array(2500).fill("duplicate"));
    // An id that the old shards have for another user.
    const other = { ...(orders[0] as Order), userId: "somebody else" };
    expect(await opened.store.record([other])).toEqual(["duplicate"]);
    expect(await findingsOf(opened.store)).toEqual({ differences: [], moved: false, ...sumOf(orders) });
    const left = await Promise.all((await cluster.masters()).map(({ port }) => cli(port, "KEYS", "{16.*")));
    const kinds = left.flatMap((keys) => keys.split(",")).filter((key) => !/}orders:(ids|claim|check)/.test(key));
    expect(kinds.filter(Boolean)).toEqual([]);
    expect(await move({}).ended()).toMatchObject({ code: 1, stderr: expect.stringContaining("--shards N") });
    // A reading that began before would be cut short by what is removed.
    await expect(reading.next()).rejects.toThrow("moved to other shards meanwhile");
    expect(await opened.store.knows(orders[0]?.id ?? "")).toBeTrue();
    expect(await opened.store.knows("nobody's")).toBeFalse();
    const again = await move({}, "--shards", "16").ended();
    expect(again).toMatchObject({ code: 1, stderr: expect.stringContaining("or has been: choose another number") });
    // Without the list of the old order ids they would count once more.
    await onMasters("DEL", `${prefixesOf(16)[3]}orders:ids`);
    await expect(open()).rejects.toThrow("is lost: restore it");
  });

  test.each([
    ["its first line", []],
    ["its second line", [["SET", "orders:layouts", "filling"]]],
  ] as const)("goes on after a death behind %s", async (_, lines) => {
    const url = redis.freshUrl();
    await using old = await open({ kind: "redis", url });
    const orders = someOrders(500);
    await recordAll(old.store, orders);
    await onMasters("HSET", "{orders:layouts}:move", "from", "1", "shards", "16");
    for (const line of lines) await onMasters(...line);
    expect((await move({ REDIS_URL: url }).ended()).code).toBe(0);
    await using moved = await open();
    expect(await moved.store.record(orders.slice(0, 100))).toEqual(Array(100).fill("duplicate"));
    expect(await moved.store.record([order({ userId: "late", cents: 5 })])).toEqual(["recorded"]);
    expect(await findingsOf(moved.store)).toMatchObject({ differences: [], orders: 501 });
  });

  test("that is stopped, and goes on when another has finished, changes nothing any more", async () => {
    const url = redis.freshUrl();
    await using old = await open({ kind: "redis", url });
    const orders = someOrders(3000);
    await recordAll(old.store, orders);
    const stopped = move({ REDIS_URL: url });
    const began = async () =>
      (await Promise.all(cluster.ports.map((port) => cli(port, "GET", "orders:layouts")))).includes("filling");
    await waitFor("the move to begin", began);
    stopped.child.kill("SIGSTOP");
    const other = await move({ REDIS_URL: url }).ended();
    expect({ code: other.code, stderr: other.code === 0 ? "" : other.stderr }).toEqual({ code: 0, stderr: "" });
    await using moved = await open();
    const late = someOrders(2000);
    await recordAll(moved.store, late);
    stopped.child.kill("SIGCONT");
    expect(await stopped.ended()).toMatchObject({
      code: 1,
      stderr: expect.stringContaining("another move has taken over"),
    });
    expect(await findingsOf(moved.store)).toEqual({ differences: [], moved: false, ...sumOf([...orders, ...late]) });
    expect(await moved.store.record(late.slice(0, 50))).toEqual(Array(50).fill("duplicate"));
  });

  test("goes no further than the replicas that it is told to wait for", async () => {
    const env = { REDIS_WAIT_REPLICAS: "1" };
    await using opened = await open(cluster.address({ waitReplicas: 1 }));
    const orders = someOrders(1000);
    await recordAll(opened.store, orders);
    const replica = (await cluster.nodes()).find(({ role }) => role === "replica");
    await cluster.kill(replica?.port ?? 0);
    const refused = await move(env, "--shards", "32").ended();
    expect(refused).toMatchObject({ code: 1, stderr: expect.stringContaining("0 of 1 replicas") });
    // Nothing is removed, nothing new is open.
    expect(await opened.store.global()).toEqual(sumOf(orders));
    await cluster.start(replica?.port ?? 0);
    await waitFor("the replica", cluster.isWhole, 60_000);
    const { code, stderr } = await move(env, "--shards", "32").ended();
    expect({ code, stderr: code === 0 ? "" : stderr }).toEqual({ code: 0, stderr: "" });
    expect(await findingsOf(opened.store)).toEqual({ differences: [], moved: false, ...sumOf(orders) });
  });

  test("knows all ids of many sets after a move, whoever they come with", async () => {
    await using opened = await open(cluster.address({ shards: 2 }));
    const orders = someOrders(16_000);
    await recordAll(opened.store, orders);
    const [list = ""] = (await onMasters("GET", `${prefixesOf(2)[0]}orders:claims`)).filter((text) => /^1 /.test(text));
    expect(Number(list.split(" ")[1])).toBeGreaterThan(70);
    expect(await move({}, "--shards", "3").ended()).toMatchObject({ code: 0 });
    const others = orders.map((one) => ({ ...one, userId: `not ${one.userId}` }));
    for (const again of [orders, others])
      for (let at = 0; at < again.length; at += 1000)
        expect(await opened.store.record(again.slice(at, at + 1000))).toEqual(Array(1000).fill("duplicate"));
    expect(await findingsOf(opened.store)).toEqual({ differences: [], moved: false, ...sumOf(orders) });
  }, 60_000);

  test("an id is not taken for another that shares half of its digest, before a move and after", async () => {
    await using opened = await open(cluster.address({ shards: 2 }));
    await recordAll(opened.store, someOrders(100));
    const [before, next, after] = someOrders(3) as [Order, Order, Order];
    for (const { id } of [before, next, after]) {
      const { home, chosen, low } = digestOf(id);
      await onMasters("SADD", `${prefixesOf(2)[home % 2]}orders:claims:1:${chosen % 64}`, low);
    }
    const copies = (one: Order) => opened.store.record([one, { ...one, userId: "U9" }, { ...one, userId: "U10" }]);
    expect(await copies(before)).toEqual(["recorded", "duplicate", "duplicate"]);
    // Another layer begins.
    for (const prefix of prefixesOf(2)) {
      const list = (await onMasters("GET", `${prefix}orders:claims`)).find((text) => text.startsWith("1 64 ")) ?? "";
      const begun = Number(list.split(" ")[3]) - MARKER_WINDOW_SECONDS;
      await onMasters("SET", `${prefix}orders:claims`, `1 64 0 ${begun}`);
    }
    expect(await copies(before)).toEqual(Array(3).fill("duplicate"));
    expect(await copies(next)).toEqual(["recorded", "duplicate", "duplicate"]);
    expect(await move({}, "--shards", "3").ended()).toMatchObject({ code: 0 });
    expect(await copies(before)).toEqual(Array(3).fill("duplicate"));
    expect(await copies(after)).toEqual(["recorded", "duplicate", "duplicate"]);
    expect(await opened.store.global()).toMatchObject({ orders: 103 });
  });

  test("orders are not refused because slots have moved", async () => {
    await using opened = await open();
    await recordAll(opened.store, someOrders(10));
    expect(await move({}, "--shards", "8").ended()).toMatchObject({ code: 0 });
    const [from, to] = await cluster.masters();
    const orders = someOrders(200_000);
    const refused = new Set<string>();
    let at = 0;
    let moving = true;
    const moved = (async () => {
      await cluster.reshard(from?.id ?? "", to?.id ?? "", 1500);
      moving = false;
    })();
    while (moving) {
      const recording = Promise.all(
        [0, 25].map((from) => opened.store.record(orders.slice(at + from, at + from + 25))),
      );
      const done = await recording.catch((error: Error) => void refused.add(error.message));
      // As a worker does: the store is away, or it is these orders.
      if (done) at += 50;
    }
    await moved;
    expect([...refused].filter((reason) => /allocation group|^MOVED|non local key/.test(reason))).toEqual([]);
    expect(await findingsOf(opened.store)).toMatchObject({ differences: [], moved: false, orders: 10 + at });
  }, 120_000);

  test("two at once take turns, and the second finds it done", async () => {
    const url = redis.freshUrl();
    await using old = await open({ kind: "redis", url });
    const orders = someOrders(2000);
    await recordAll(old.store, orders);
    const ended = await Promise.all([move({ REDIS_URL: url }).ended(), move({ REDIS_URL: url }).ended()]);
    expect(ended.map(({ code }) => code)).toEqual([0, 0]);
    expect(ended.map(({ stderr }) => stderr).join()).toContain("Waits for another move to end");
    const results = ended.map(({ stdout }) => JSON.parse(stdout));
    const pauses = results.map(({ pauseSeconds }) => pauseSeconds).toSorted((a) => (a === null ? 1 : -1));
    expect(pauses).toEqual([expect.any(Number), null]);
    for (const { orders: moved, shards } of results) expect([moved, shards]).toEqual([2000, 16]);
    await using moved = await open();
    expect(await findingsOf(moved.store)).toEqual({ differences: [], moved: false, ...sumOf(orders) });
  });

  test("refuses a cluster that holds orders, and a start in one that is being filled", async () => {
    const url = redis.freshUrl();
    await using old = await open({ kind: "redis", url });
    await recordAll(old.store, someOrders(3000));
    await using there = await open();
    await there.store.record([order()]);
    const refused = await move({ REDIS_URL: url }).ended();
    expect(refused).toMatchObject({ code: 1, stderr: expect.stringContaining("The cluster is in use already") });
    await cluster.flush();
    const { child } = move({ REDIS_URL: url });
    await waitFor("the move to begin", async () => {
      const answers = await Promise.all(cluster.ports.map((port) => cli(port, "GET", "orders:layouts")));
      return answers.includes("filling");
    });
    await expect(open()).rejects.toThrow("Orders are being moved into this cluster");
    child.kill("SIGKILL");
    await child.exited;
  });
});

/** The first of a board, added up here. */
async function expectedTop(orders: readonly Order[], board: string) {
  const users = new Map<string, { userId: string; orders: number; cents: number }>();
  for (const { userId, cents } of orders.filter(({ day }) => `y:${day.slice(0, 4)}` === board)) {
    const held = users.get(userId) ?? { userId, orders: 0, cents: 0 };
    users.set(userId, { userId, orders: held.orders + 1, cents: held.cents + cents });
  }
  return [...users.values()]
    .sort((a, b) => b.cents - a.cents || Buffer.compare(Buffer.from(a.userId), Buffer.from(b.userId)))
    .slice(0, 1000);
}
