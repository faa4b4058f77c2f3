import { afterAll, beforeAll, beforeEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { createServer as createHttpServer } from "node:http";
import { type AddressInfo, connect, createServer, type Server } from "node:net";
import { join } from "node:path";
import { Redis } from "ioredis";
import { readConfig } from "../config.ts";
import { start } from "../index.ts";
import { auditStore } from "../store/audit.ts";
import { openStore } from "../store/open.ts";
import type { Store } from "../store/store.ts";
import { order } from "./support/orders.ts";
import { temporaryFolder } from "./support/program.ts";
import { run } from "./support/redis-cluster.ts";
import { freePort, type RedisServer, sendCommand, startRedisServer } from "./support/redis-server.ts";
import { waitFor } from "./support/wait-for.ts";

// Real processes on a busy machine: bun's five seconds would fail a test that is only slow.
setDefaultTimeout(60_000);

/** Within this time after a failover the store must work again. */
const RECOVERY_MS = 2_000;
/** Every kind of character that a URL does not take as it is. */
const PASSWORD = "p%ss/@:#?&ä word";
const encodedPassword = encodeURIComponent(PASSWORD);

type Listener = { port: number };
type Environment = Record<string, string>;
const address = ({ port }: Listener) => `127.0.0.1:${port}`;
const single = (listener: Listener, user = ""): Environment => ({ REDIS_URL: `redis://${user}${address(listener)}` });
const cluster = (listener: Listener, user = ""): Environment => ({
  REDIS_CLUSTER_NODES: `redis://${user}${address(listener)}`,
});
const sentinel = (listener: Listener, user = "", path = "/orders"): Environment => ({
  // The first of the Sentinels is down.
  REDIS_URL: `redis+sentinel://${user}127.0.0.1:1,${address(listener)}${path}`,
});

/** Opens the store as the program does, from its environment. */
async function open(env: Environment) {
  const store = await openStore(readConfig(env).store);
  return { ...store, [Symbol.asyncDispose]: () => store.close() };
}

const orderCount = async (store: Store) => (await store.global()).orders;

async function waitForRecovery(store: Store) {
  const accepts = () =>
    store.check().then(
      () => true,
      () => false,
    );
  await waitFor("the store to accept orders", accepts, RECOVERY_MS);
}

/** Makes a server the replica of the one on another port; the port may be closed. */
const follow = (replica: RedisServer, { port }: Listener) => replica.command("REPLICAOF", "127.0.0.1", `${port}`);
const promote = (replica: RedisServer) => replica.command("REPLICAOF", "NO", "ONE");
const isInSync = async (replica: RedisServer) =>
  `${await replica.command("INFO", "replication")}`.includes("master_link_status:up");

let redis: RedisServer;
let locked: RedisServer;
let clusterNode: Listener & { stop(): Promise<void> };
let tls: Listener & { certificate: string };
let http: Listener;
let silent: Listener;
let closing: Listener;

beforeAll(async () => {
  [redis, locked, clusterNode] = await Promise.all([startRedisServer(), startRedisServer(), startClusterNode()]);
  await locked.command("ACL", "SETUSER", "shop", "on", `>${PASSWORD}`, "~*", "&*", "+@all");
  await locked.command("CONFIG", "SET", "requirepass", PASSWORD);
  await redis.command("CONFIG", "SET", "bind", "127.0.0.1 ::1");
  tls = await addTlsPort(redis);
  http = await listen(createHttpServer((_, response) => response.end("hello")));
  silent = await listen(createServer(() => {}));
  closing = await listen(createServer((socket) => socket.end()));
});
afterAll(() => Promise.all([redis, locked, clusterNode].map((server) => server.stop())));

/** A cluster of one node, which has all slots. */
async function startClusterNode() {
  const port = freePort();
  const net = ["--port", `${port}`, "--bind", "127.0.0.1", "::1", "--dir", temporaryFolder(), "--save", ""];
  const options = ["--cluster-enabled", "yes", "--cluster-port", `${freePort()}`, "--cluster-announce-ip", "127.0.0.1"];
  const child = Bun.spawn(["redis-server", ...net, ...options], { stdout: "ignore" });
  const state = () => sendCommand(port, "CLUSTER", "INFO").catch(String);
  await waitFor("the node", async () => `${await state()}`.includes("cluster_state"));
  await sendCommand(port, "CLUSTER", "ADDSLOTSRANGE", 0, 16383);
  await waitFor("the cluster", async () => `${await state()}`.includes("cluster_state:ok"));
  async function stop() {
    child.kill("SIGKILL");
    await child.exited;
  }
  return { port, stop };
}

/** Lets the server listen with TLS on another port, with a certificate that signs itself. */
async function addTlsPort(server: RedisServer) {
  const dir = temporaryFolder();
  const key = join(dir, "key.pem");
  const certificate = join(dir, "certificate.pem");
  const newKey = ["-newkey", "rsa:2048", "-nodes", "-keyout", key];
  const subject = ["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"];
  await run(["openssl", "req", "-x509", ...newKey, ...subject, "-out", certificate]);
  const port = freePort();
  const files = ["tls-cert-file", certificate, "tls-key-file", key];
  await server.command("CONFIG", "SET", ...files, "tls-auth-clients", "no", "tls-port", `${port}`);
  return { port, certificate };
}

async function listen(server: Server): Promise<Listener> {
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  server.unref();
  return { port: (server.address() as AddressInfo).port };
}

describe("openStore() connects", () => {
  test.each([
    ["with a password of special characters", () => single(locked, `:${encodedPassword}@`)],
    ["with a user", () => single(locked, `shop:${encodedPassword}@`)],
    ["by IPv6", () => ({ REDIS_URL: `redis://[::1]:${redis.port}/1` })],
    ["to a cluster", () => cluster(clusterNode)],
    ["to a cluster whose first node is down", () => ({ REDIS_CLUSTER_NODES: `127.0.0.1:1,[::1]:${clusterNode.port}` })],
  ])("%s", async (_, env) => {
    await using store = await open(env());
    expect(await store.record([order()])).toEqual(["recorded"]);
  });

  test("by TLS where NODE_EXTRA_CA_CERTS names the certificate", async () => {
    const to = JSON.stringify({ kind: "redis", url: `rediss://localhost:${tls.port}` });
    const code = `await (await (await import("./store/open.ts")).openStore(${to})).check(); process.exit(0)`;
    const env = { PATH: process.env.PATH, NODE_EXTRA_CA_CERTS: tls.certificate };
    const child = Bun.spawn([process.execPath, "-e", code], { cwd: join(import.meta.dir, ".."), env, stderr: "pipe" });
    expect(await child.stderr.text()).toBe("");
    expect(await child.exited).toBe(0);
  });
});

describe("openStore() rejects with a sentence about", () => {
  const WRONG_USER = "user or password is wrong. Check both in the URL, where special characters are percent-encoded";
  const NO_PASSWORD = "it has no password, but the URL contains one. Remove it from the URL";
  const REFUSED = "connection refused. Check the address, and that the server is running";
  const UNRESOLVED = "the host name cannot be resolved. Check the address";
  const NO_RESPONSE = "no response within 5 s. Check the address";
  const CLOSED = "it closed the connection. Check the address";
  const OTHER_PROTOCOL = "the response is not in the Redis protocol. Check the address";
  const CLUSTER_NODE = "it is a node of a Redis Cluster. Use REDIS_CLUSTER_NODES instead of REDIS_URL";
  const TLS = "; if the port expects TLS, use rediss instead of redis";
  const rediss = (port: number, host = "127.0.0.1"): Environment => ({ REDIS_URL: `rediss://${host}:${port}` });
  const url = (REDIS_URL: string): Environment => ({ REDIS_URL });

  const cases: [name: string, env: () => Environment, sentence: string][] = [
    [
      "a missing password",
      () => single(locked),
      "it requires a password. Add user and password to the URL: redis://user:password@host:port",
    ],
    ["a wrong password", () => single(locked, ":secret@"), WRONG_USER],
    ["a wrong user", () => single(locked, `mallory:${encodedPassword}@`), WRONG_USER],
    ["a user without password", () => single(locked, "shop@"), WRONG_USER],
    ["a user of a server without users", () => single(redis, "mallory:secret@"), WRONG_USER],
    ["a password of a server without one", () => single(redis, ":secret@"), NO_PASSWORD],
    ["a password of a cluster without one", () => cluster(clusterNode, ":secret@"), NO_PASSWORD],
    [
      "a database that does not exist",
      () => url(`redis://${address(redis)}/5000`),
      "the database number does not exist. Check the end of the URL, and the setting `databases` of Redis",
    ],
    ["no TLS on a TLS port", () => single(tls), `${CLOSED}${TLS}`],
    ["a server that closes the connection", () => single(closing), `${CLOSED}${TLS}`],
    [
      "TLS on a port without",
      () => rediss(redis.port),
      `${NO_RESPONSE}; if the port does not expect TLS, use redis instead of rediss`,
    ],
    [
      "TLS on a port of HTTP",
      () => rediss(http.port),
      "this port does not accept TLS. Use redis instead of rediss, or the TLS port",
    ],
    [
      "a certificate of an unknown CA",
      () => rediss(tls.port, "localhost"),
      "its certificate is not trusted. Set NODE_EXTRA_CA_CERTS to the file of its CA",
    ],
    ["an unknown host name", () => url("redis://redis.invalid"), UNRESOLVED],
    ["an unknown host name of a cluster", () => ({ REDIS_CLUSTER_NODES: "redis.invalid:6379" }), UNRESOLVED],
    [
      "an unknown host name of a Sentinel",
      () => url("redis+sentinel://redis.invalid:1/orders"),
      `Sentinel: ${UNRESOLVED}`,
    ],
    ["a closed port", () => single({ port: 1 }), REFUSED],
    ["a closed port of a cluster", () => cluster({ port: 1 }), REFUSED],
    ["a closed port of a Sentinel", () => sentinel({ port: 2 }), `Sentinel: ${REFUSED}`],
    ["a port of HTTP", () => single(http), `${OTHER_PROTOCOL}${TLS}`],
    ["a port of HTTP as a cluster", () => cluster(http), `${OTHER_PROTOCOL}${TLS}`],
    ["a server that never responds", () => single(silent), NO_RESPONSE],
    ["a cluster that never responds", () => cluster(silent), NO_RESPONSE],
    [
      "a Sentinel that never responds",
      () => url(`redis+sentinel://${address(silent)}/orders`),
      `Sentinel: ${NO_RESPONSE}`,
    ],
    [
      "a Redis named as a Sentinel",
      () => url(`redis+sentinel://${address(redis)}/orders`),
      "Sentinel: it is not a Sentinel. Use redis://host:port for a single Redis",
    ],
    ["a node of a cluster named as a single Redis", () => single(clusterNode), CLUSTER_NODE],
    ["a database of a cluster", () => url(`redis://${address(clusterNode)}/1`), CLUSTER_NODE],
    [
      "a single Redis named as a cluster",
      () => cluster(redis),
      "it is a single Redis. Use REDIS_URL instead of REDIS_CLUSTER_NODES",
    ],
  ];
  test.concurrent.each(cases)("%s", async (_, env, sentence) => {
    const since = performance.now();
    const error = await open(env()).catch((error) => error);
    const [, reason] = /^Cannot reach Redis at \S+: (.*)$/.exec(error.message) ?? [error];
    expect(reason).toBe(sentence);
    // ioredis adds the command to its errors, AUTH with user and password.
    expect(JSON.stringify([error.message, error.cause])).not.toMatch(/secret|mallory|p%/);
    expect(performance.now() - since).toBeLessThan(6_500);
  });
});

test("REDIS_WAIT_REPLICAS with more replicas than there are is named with both numbers", async () => {
  await using store = await open({ ...single(redis), REDIS_WAIT_REPLICAS: "2" });
  await expect(store.check()).rejects.toThrow(
    "only 0 of 2 replicas have it after 1 s: REDIS_WAIT_REPLICAS is 2, replicas connected to Redis: 0",
  );
});

test("two key prefixes and no prefix are three stores in one Redis", async () => {
  const REDIS_URL = `redis://${address(redis)}/2`;
  await using shop1 = await open({ REDIS_URL, REDIS_KEY_PREFIX: "shop1" });
  await using shop2 = await open({ REDIS_URL, REDIS_KEY_PREFIX: "shop2" });
  await using withoutPrefix = await open({ REDIS_URL });
  const same = order({ cents: 500 });
  expect(await shop1.record([same, order({ userId: "U2", cents: 100 })])).toEqual(["recorded", "recorded"]);
  expect(await shop2.record([same])).toEqual(["recorded"]);

  const client = new Redis(REDIS_URL);
  expect(await client.hgetall("shop1:user:U1")).toEqual({ order_count: "1", total_spend: "5.00" });
  expect(await client.hgetall("shop1:global:stats")).toEqual({ total_orders: "2", total_revenue: "6.00" });
  expect((await client.keys("*")).filter((key) => !/^shop[12]:/.test(key))).toEqual([]);
  client.disconnect();

  const [u1, u2] = ["U1", "U2"].map((userId) => ({ userId, orders: 1, cents: userId === "U1" ? 500 : 100 }));
  for (const [store, users] of [
    [shop1, [u1, u2]],
    [shop2, [u1]],
    [withoutPrefix, []],
  ] as const) {
    expect(await store.top("y:2024", 10)).toEqual([...users] as never);
    expect((await Array.fromAsync(store.users())).flat()).toEqual([...users] as never);
    const { orders, differences } = await auditStore(store, () => {});
    expect({ orders, differences }).toEqual({ orders: users.length, differences: [] });
  }
});

/** A host name that can be moved: a TCP proxy that connects new clients to the port it was last pointed to. */
async function startMovableName(port: number, rewriteReply = (reply: string) => reply) {
  let target = port;
  const server = createServer((client) => {
    const upstream = connect(target, "127.0.0.1");
    client.pipe(upstream);
    upstream.on("data", (reply) => client.write(rewriteReply(reply.toString("latin1")), "latin1"));
    client.on("error", () => {}).on("close", () => upstream.destroy());
    upstream.on("error", () => {}).on("close", () => client.destroy());
  });
  const listener = await listen(server);
  const pointTo = ({ port }: Listener) => {
    target = port;
  };
  return { ...listener, pointTo, [Symbol.dispose]: () => server.close() };
}

describe("after a failover of a Redis whose name moves", () => {
  let [oldMaster, newMaster] = [] as unknown as [RedisServer, RedisServer];
  beforeAll(async () => {
    [oldMaster, newMaster] = await Promise.all([startRedisServer(), startRedisServer()]);
  });
  afterAll(() => Promise.all([oldMaster.stop(), newMaster.stop()]));
  beforeEach(async () => {
    for (const server of [oldMaster, newMaster]) {
      await promote(server);
      await server.command("FLUSHALL");
    }
  });

  const inWordsOfRedis6 = (reply: string) =>
    reply.replace(
      /-READONLY ([^.]*\.)[^\r]*/g,
      `-ERR Error running script (call to f_${"0".repeat(40)}): @user_script:1: @user_script: 1: -READONLY $1 `,
    );

  test.each([
    ["READONLY as Redis 7 writes it", undefined],
    ["READONLY as Redis 6.2 writes it", inWordsOfRedis6],
  ])("check() and record() recover from %s", async (_, rewriteReply) => {
    using name = await startMovableName(oldMaster.port, rewriteReply);
    await using store = await open(single(name));
    await store.record([order()]);
    await follow(newMaster, oldMaster);
    await waitFor("the replica", () => isInSync(newMaster));
    await promote(newMaster);
    await follow(oldMaster, newMaster);
    name.pointTo(newMaster);

    await expect(store.check()).rejects.toThrow(
      "it is a replica, which does not accept writes. If this persists, set the address of the master",
    );
    await waitForRecovery(store);
    expect(await store.record([order()])).toEqual(["recorded"]);
    expect(await newMaster.command("HGET", "global:stats", "total_orders")).toBe("2");
  });

  test("check() recovers from MASTERDOWN, the reply of an old master that has not reached the new one", async () => {
    using name = await startMovableName(oldMaster.port);
    await using store = await open(single(name));
    await oldMaster.command("CONFIG", "SET", "replica-serve-stale-data", "no");
    await follow(oldMaster, { port: 1 });
    name.pointTo(newMaster);
    await expect(store.check()).rejects.toThrow("it is a replica");
    await waitForRecovery(store);
    await oldMaster.command("CONFIG", "SET", "replica-serve-stale-data", "yes");
  });

  test("a program without workers reads the totals of the new master within two seconds", async () => {
    using name = await startMovableName(oldMaster.port);
    await using other = await open(single(newMaster));
    await other.record([order(), order()]);
    const env = { ...single(name), CONSUMER_WORKERS: "0", DATA_DIR: temporaryFolder(), LOG_LEVEL: "silent" };
    const program = await start(readConfig({ ...env, PORT: "0", EMBEDDED_QUEUE_PORT: "0" }));
    const total = async () =>
      ((await (await fetch(`${program.url}/stats/global`)).json()) as { total_orders?: number }).total_orders;
    expect(await total()).toBe(0);

    // It has nothing of the new master's orders, and serves reads all the same.
    await follow(oldMaster, { port: 1 });
    name.pointTo(newMaster);
    await waitFor("the totals of the new master", async () => (await total()) === 2, RECOVERY_MS);
    await program.stop();
  });
});

describe("with Redis Sentinel", () => {
  let [first, second] = [] as unknown as [RedisServer, RedisServer];
  let watcher: Listener & { process: Bun.Subprocess };
  const ask = (...args: string[]) => sendCommand(watcher.port, "SENTINEL", ...args);
  const isMaster = async ({ port }: Listener) =>
    `${await ask("GET-MASTER-ADDR-BY-NAME", "orders")}`.endsWith(`,${port}`);

  beforeAll(async () => {
    [first, second] = await Promise.all([startRedisServer(), startRedisServer()]);
    await follow(second, first);
    watcher = startSentinel(first);
    const replicas = async () => `${await ask("REPLICAS", "orders").catch(String)}`;
    await waitFor("Sentinel to find the replica", async () => (await replicas()).includes("master-link-status,ok"));
  });
  afterAll(async () => {
    watcher.process.kill("SIGKILL");
    await Promise.all([watcher.process.exited, first.stop(), second.stop()]);
  });

  /** A Sentinel that decides alone and soon. */
  function startSentinel(master: Listener) {
    const port = freePort();
    const file = join(temporaryFolder(), "sentinel.conf");
    const monitor = `sentinel monitor orders 127.0.0.1 ${master.port} 1`;
    const timeouts = "sentinel down-after-milliseconds orders 500\nsentinel failover-timeout orders 1000";
    writeFileSync(file, `port ${port}\nbind 127.0.0.1\n${monitor}\n${timeouts}\n`);
    return { port, process: Bun.spawn(["redis-server", file, "--sentinel"], { stdout: "ignore" }) };
  }

  test("the store counts on after a failover, and after the death of the master", async () => {
    await using store = await open(sentinel(watcher, "", "/orders/1"));
    await store.record([order()]);
    const replica = await open({ REDIS_URL: `redis://${address(second)}/1` });
    await waitFor("the replica to have the order", async () => (await orderCount(replica)) === 1);
    await replica.close();

    await ask("FAILOVER", "orders");
    await waitFor("the failover", () => isMaster(second), 20_000);
    // For some ten seconds the old master takes orders, and loses them then: the store must not stay with it.
    const hasClient = async () => `${await second.command("CLIENT", "LIST")}`.includes(" db=1 ");
    await waitFor("the store to connect to the new master", hasClient, RECOVERY_MS);
    await waitForRecovery(store);
    await store.record([order()]);
    expect(await orderCount(store)).toBe(2);

    // Sentinel does this too, after those ten seconds.
    await follow(first, second);
    await waitFor("the old master to follow the new one", () => isInSync(first));
    await second.kill();
    await waitFor("the second failover", () => isMaster(first), 20_000);
    await waitForRecovery(store);
    expect(await store.record([order()])).toEqual(["recorded"]);
    expect(await orderCount(store)).toBe(3);
  });

  test("the password is sent to the master, and to Sentinels that ask for one", async () => {
    await ask("MONITOR", "locked", "127.0.0.1", `${locked.port}`, "1");
    await ask("SET", "locked", "auth-pass", PASSWORD);
    const env = (user: string) => sentinel(watcher, `${user}:${encodedPassword}@`, "/locked");
    await (await open(env(""))).close();
    await sendCommand(watcher.port, "ACL", "SETUSER", "default", "resetpass", `>${PASSWORD}`);
    await (await open(env("shop"))).close();
    await expect(open(sentinel(watcher, ":secret@"))).rejects.toThrow("Sentinel: user or password is wrong");
    const client = new Redis({ port: watcher.port, password: PASSWORD });
    await client.call("ACL", "SETUSER", "default", "nopass");
    client.disconnect();
  });

  test("openStore() rejects with a sentence about a wrong name, and about a Sentinel named as something else", async () => {
    await expect(open(sentinel(watcher, "", "/other"))).rejects.toThrow(
      `Cannot reach Redis at 127.0.0.1:1,${address(watcher)}/other: Sentinel: it does not monitor a master of this name. Check the name after the /`,
    );
    await expect(open(single(watcher))).rejects.toThrow(
      "it is a Sentinel. Use redis+sentinel://host:port/name, where name is the name of the master",
    );
    await expect(open(cluster(watcher))).rejects.toThrow(
      "it is not a node of a Redis Cluster. Use REDIS_URL for a single Redis or Sentinels",
    );
  });
});
