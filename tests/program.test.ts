import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { closeSync, constants, openSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Redis } from "ioredis";
import { type Emulator, startEmulator } from "../queue/emulator.ts";
import { openQueue, type Queue } from "../queue/queue.ts";
import { locateQueue } from "../queue/setup.ts";
import { body } from "./support/orders.ts";
import { AWS, eventsOf, type Program, shop, spawnProgram, startProgram, temporaryFolder } from "./support/program.ts";
import {
  deadLettersOf,
  freshFifoQueue,
  freshQueue,
  isEmpty,
  releaseAll,
  startEmulatorProcess,
  startTestEmulator,
  takeAll,
} from "./support/queues.ts";
import { freePort, type RedisServer, startRedisServer } from "./support/redis-server.ts";
import { startOnTerminal } from "./support/terminal.ts";
import { waitFor } from "./support/wait-for.ts";

// Real processes on a busy machine: bun's five seconds would fail a test that is only slow.
setDefaultTimeout(60_000);

let redisServer: RedisServer;
let emulator: Emulator;
beforeAll(async () => {
  redisServer = await startRedisServer();
  // Not the embedded queue, which shows nobody what is in flight.
  emulator = await startEmulatorProcess();
});
afterAll(() => Promise.all([redisServer.stop(), emulator.stop()]));

const totalOrders = async (program: Program) =>
  ((await (await program.get("/stats/global")).json()) as { total_orders: number }).total_orders;
const health = async (program: Program) => {
  const response = await program.get("/health");
  return { code: response.status, ...((await response.json()) as { problems?: string[]; services: object }) };
};

async function sendOrders(queue: Queue, orders: number) {
  for (let sent = 0; sent < orders; sent += 10) {
    await queue.send(Array.from({ length: Math.min(10, orders - sent) }, () => body()));
  }
}

describe("with no environment", () => {
  test("the program counts orders from its embedded queue and stops within two seconds when idle", async () => {
    const program = await startProgram({ DATA_DIR: temporaryFolder() });
    const started = eventsOf(program.output()).find(({ event }) => event === "started");
    expect(started).toMatchObject({
      dashboard: `${program.url}/dashboard`,
      docs: `${program.url}/docs`,
      store: "sqlite",
      send_orders: `EMBEDDED_QUEUE_PORT=${new URL(started?.queue as string).port} bun scripts/populate.ts`,
    });
    expect(eventsOf(program.output())[0]).toMatchObject({ event: "embedded_mode" });
    const endpoint = new URL(started?.queue as string).origin;
    const queue = openQueue(await locateQueue({ name: "orders-queue", endpoint, embedded: true }));
    await queue.send([
      body(),
      body({ order_value: 99.99, items: [{ product_id: "P", quantity: 2, price_per_unit: 20 }] }),
      "{",
    ]);
    await waitFor("the orders", async () => (await totalOrders(program)) === 2);
    expect(await (await program.get("/stats/global")).json()).toMatchObject({ total_orders: 2, total_revenue: 50 });
    await waitFor("the outcomes in the metrics", async () => {
      const text = await (await program.get("/metrics")).text();
      return ["counted", "corrected", "rejected"].every((outcome) =>
        text.includes(`orders_total{outcome="${outcome}"} 1`),
      );
    });
    await waitFor("the orders to look at", async () => {
      const pages = await Promise.all(
        ["corrected", "rejected"].map((word) => program.get(`/orders/recent?outcome=${word}`)),
      );
      const texts = await Promise.all(pages.map((page) => page.text()));
      return texts.every((text, index) => text.includes(["99.99", "invalid_json"][index] as string));
    });
    await waitFor("an empty queue", () => isEmpty(queue));
    const before = performance.now();
    program.kill("SIGTERM");
    expect(await program.exited).toBe(0);
    expect(performance.now() - before).toBeLessThan(2_000);
    expect(eventsOf(program.output()).map(({ event }) => event)).toEqual([
      "embedded_mode",
      "started",
      "order_corrected",
      "order_rejected",
      "stopping",
      "stopped",
    ]);
  });

  test("on a terminal its start shows its name, the address of the dashboard and how to send orders", async () => {
    const env = { PORT: "0", EMBEDDED_QUEUE_PORT: "0", DATA_DIR: temporaryFolder(), HOME: process.env.HOME ?? "" };
    await using terminal = startOnTerminal([process.execPath, join(import.meta.dir, "../index.ts")], env);
    await waitFor("the start", () => terminal.output().includes("populate.ts"));
    expect(terminal.output()).toMatch(/\norder-stats\r?\n +api +(http:\S+)\r?\n +dashboard +\1\/dashboard\r?\n/);
  });

  test("orders that were queued and not yet counted survive kill -9", async () => {
    const env = { DATA_DIR: temporaryFolder() };
    const apiOnly = await startProgram({ ...env, CONSUMER_WORKERS: "0" });
    const endpoint = new URL(eventsOf(apiOnly.output()).at(-1)?.queue as string).origin;
    await sendOrders(openQueue(await locateQueue({ name: "orders-queue", endpoint, embedded: true })), 200);
    apiOnly.kill("SIGKILL");
    await apiOnly.exited;
    const program = await startProgram(env);
    await waitFor("the orders", async () => (await totalOrders(program)) === 200);
    program.kill("SIGINT");
    expect(await program.exited).toBe(0);
  });
});

describe("on a named queue and Redis", () => {
  test("what became of an order is found after hundreds of others were rejected, also when it was fixed and sent again", async () => {
    const queue = await freshQueue(emulator);
    const url = redisServer.freshUrl();
    const program = await startProgram(shop(queue, url));
    const read = async (id: string) => (await (await program.get(`/orders/${id}`)).json()) as Record<string, unknown>;
    const ids = Array.from({ length: 300 }, (_, index) => `bad${index}`);
    for (let at = 0; at < 300; at += 10)
      await queue.send(ids.slice(at, at + 10).map((order_id) => body({ order_id, items: [] })));
    await queue.send([body({ order_id: "good" })]);
    await waitFor("the rejected orders", async () => {
      const states = await Promise.all([...ids, "good"].map(read));
      return states.every(({ state }, index) => state === (index < 300 ? "rejected" : "counted"));
    });
    const errors = [{ path: "/items", message: "must be a non-empty array, is an empty array" }];
    expect(await read("bad7")).toMatchObject({ reason: "invalid_order", errors, message_id: expect.any(String) });
    await queue.send([body({ order_id: "bad7", order_value: 99 })]);
    await waitFor("the corrected order", async () => (await read("bad7")).state === "corrected");
    await queue.send([body({ order_id: "bad7" }), body({ order_id: "bad7", items: [] })]);
    const duplicates = { count: 2, last_at: expect.any(String) };
    await waitFor("both duplicates", async () => Bun.deepMatch({ duplicates: { count: 2 } }, await read("bad7")));
    const rejections = { count: 1, latest: [{ errors }] };
    expect(await read("bad7")).toMatchObject({ declared: 99, computed: 10, rejections, duplicates });
    const redis = new Redis(url);
    expect(await redis.hkeys("orders:history:duplicate")).toEqual(["bad7"]);
    expect(await redis.hexists("orders:history:rejected", "good")).toBe(0);
    redis.disconnect();
    program.kill("SIGTERM");
    expect(await program.exited).toBe(0);
  });

  test("kill -9 in the middle of a drain, again and again, loses and repeats nothing", async () => {
    const queue = await freshQueue(emulator);
    const env = shop(queue, redisServer.freshUrl());
    const orders = 3000;
    await sendOrders(queue, orders);
    for (let kills = 0; kills < 4; kills++) {
      const program = await startProgram(env);
      const target = (orders / 5) * (kills + 1);
      await waitFor("part of the orders", async () => (await totalOrders(program)) >= Math.min(target, orders));
      program.kill("SIGKILL");
      await program.exited;
      await releaseAll(queue); // what it held: hundreds of messages, hidden for 30 s
    }
    const last = await startProgram(env);
    await waitFor("an empty queue", () => isEmpty(queue));
    expect(await (await last.get("/stats/global")).json()).toMatchObject({
      total_orders: orders,
      total_revenue: orders * 10,
    });
    last.kill("SIGTERM");
    expect(await last.exited).toBe(0);
  });

  test("kill -9 in the middle of a FIFO queue counts each order once and leaves one copy of each reject", async () => {
    const queue = await freshFifoQueue(emulator);
    const env = shop(queue, redisServer.freshUrl());
    const users = Array.from({ length: 20 }, (_, index) => `U${index}`);
    const rejects: string[] = [];
    for (let round = 0; round < 6; round++) {
      for (const user_id of users) {
        const [copy, reject] = [body({ user_id }), `{"of":"${user_id}","round":${round}`];
        const orders = Array.from({ length: 7 }, () => body({ user_id }));
        await queue.send([copy, ...orders, reject, copy], Array(10).fill(user_id));
        rejects.push(`${user_id} ${reject}`);
      }
    }
    for (const target of [200, 500]) {
      const program = await startProgram(env);
      await waitFor("part of the orders", async () => (await totalOrders(program)) >= target);
      program.kill("SIGKILL");
      await program.exited;
      await releaseAll(queue); // with their groups, hidden for 30 s
    }
    const last = await startProgram(env);
    await waitFor("an empty queue", () => isEmpty(queue));
    expect(await (await last.get("/stats/global")).json()).toMatchObject({ total_orders: 960, total_revenue: 9600 });
    const user = await (await last.get("/users/U7/stats")).json();
    expect(user).toMatchObject({ order_count: 48, total_spend: 480 });
    const dead = await takeAll(deadLettersOf(queue));
    expect(dead.map((message) => `${message.groupId} ${message.body}`).sort()).toEqual(rejects.sort());
    last.kill("SIGTERM");
    expect(await last.exited).toBe(0);
  });

  test("two programs share a queue and a store, and one that is stopped under load leaves the rest to the other", async () => {
    const queue = await freshQueue(emulator);
    const redisUrl = redisServer.freshUrl();
    const [stopped, other] = await Promise.all([
      startProgram(shop(queue, redisUrl)),
      startProgram(shop(queue, redisUrl)),
    ]);
    const sending = sendOrders(queue, 3000);
    await waitFor("the first orders", async () => (await totalOrders(other)) > 300);
    const before = performance.now();
    stopped.kill("SIGTERM");
    stopped.kill("SIGTERM");
    expect(await stopped.exited).toBe(0);
    expect(performance.now() - before).toBeLessThan(10_000);
    await sending;
    await releaseAll(queue); // receives that the stop cut off on their way
    await waitFor("an empty queue", () => isEmpty(queue), 20_000);
    expect(await totalOrders(other)).toBe(3000);
    other.kill("SIGTERM");
    await other.exited;
  });

  test("a Redis that is killed turns health to 503 with the reason, and nothing is lost or dead-lettered", async () => {
    const redis = await startRedisServer();
    const queue = await freshQueue(emulator);
    const program = await startProgram(shop(queue, redis.freshUrl()));
    expect(await health(program)).toMatchObject({
      code: 200,
      services: { redis: "connected", queue: "connected", consumers: "running" },
    });
    await sendOrders(queue, 50);
    await waitFor("the orders", async () => (await totalOrders(program)) === 50);
    await redis.kill();
    await waitFor("503", async () => (await health(program)).code === 503);
    const unhealthy = await health(program);
    expect(unhealthy.services).toMatchObject({ redis: "disconnected", queue: "connected" });
    expect(unhealthy.problems?.join()).toMatch(/store: /);
    const stats = await program.get("/stats/global");
    expect([stats.status, stats.headers.get("content-type")]).toEqual([503, "application/problem+json"]);
    await sendOrders(queue, 100);
    await waitFor("a worker to pause", () => program.output().includes("store_unavailable"));
    await redis.start();
    const back = performance.now();
    await waitFor("the rest", async () => (await totalOrders(program).catch(() => 0)) === 150);
    expect(performance.now() - back).toBeLessThan(2000);
    await waitFor("200", async () => (await health(program)).code === 200);
    expect((await queue.depth()).deadLetter).toBe(0);
    program.kill("SIGTERM");
    expect(await program.exited).toBe(0);
    await redis.stop();
  });

  test("a stop during an outage of the store releases what is held, within ten seconds", async () => {
    const redis = await startRedisServer();
    const queue = await freshQueue(emulator);
    const program = await startProgram(shop(queue, redis.freshUrl()));
    await redis.kill();
    await sendOrders(queue, 20);
    await waitFor("a worker to pause", () => program.output().includes("store_unavailable"));
    const before = performance.now();
    program.kill("SIGTERM");
    expect(await program.exited).toBe(0);
    expect(performance.now() - before).toBeLessThan(10_000);
    expect(await takeAll(queue)).toHaveLength(20);
    await redis.stop();
  });

  test("a queue that stops turns health to 503, and back", async () => {
    const dir = join(temporaryFolder(), "queue");
    const first = await startTestEmulator(dir);
    const queue = await freshQueue(first);
    const program = await startProgram(shop(queue, redisServer.freshUrl()));
    expect((await health(program)).code).toBe(200);
    await first.stop();
    await waitFor("503", async () => (await health(program)).code === 503);
    expect((await health(program)).problems?.join()).toMatch(/queue orders-.*connection refused/);
    const port = Number(new URL(first.endpoint).port);
    const second = await startEmulator({ port, dir }, () => {});
    await waitFor("200", async () => (await health(program)).code === 200);
    await sendOrders(queue, 10);
    await waitFor("the orders", async () => (await totalOrders(program)) === 10);
    program.kill("SIGTERM");
    expect(await program.exited).toBe(0);
    const failures = eventsOf(program.output()).filter(({ event }) => event === "polling_failed");
    expect(failures.length).toBeLessThanOrEqual(2); // one line a worker, whatever the number of tries
    await second.stop();
  });
});

test("with TIME_ZONE orders count for the days there, and a program with another one does not start", async () => {
  const queue = await freshQueue(emulator);
  const env = shop(queue, redisServer.freshUrl());
  const program = await startProgram({ ...env, TIME_ZONE: "asia/tokyo" });
  expect(eventsOf(program.output()).at(-1)).toMatchObject({ event: "started", time_zone: "Asia/Tokyo" });
  const others = ["0", "2"].map(async (CONSUMER_WORKERS) => {
    const { child, output } = spawnProgram({ ...env, CONSUMER_WORKERS });
    return [await child.exited, output()];
  });
  for (const [code, output] of await Promise.all(others)) {
    expect([code, output]).toEqual([
      1,
      expect.stringContaining("begun with TIME_ZONE=Asia/Tokyo, and this program has"),
    ]);
    expect(output).toContain("TIME_ZONE=UTC. Set TIME_ZONE=Asia/Tokyo, or use an empty store");
  }
  await queue.send(
    ["2024-12-31T14:59:59Z", "2024-12-31T15:00:00Z"].map((order_timestamp) => body({ order_timestamp })),
  );
  await waitFor("the orders", async () => (await totalOrders(program)) === 2);
  const read = async (path: string) => (await program.get(path)).json();
  expect(await read("/stats/daily?from=2024-12-31&to=2025-01-01")).toMatchObject({
    days: [
      { date: "2024-12-31", total_orders: 1 },
      { date: "2025-01-01", total_orders: 1 },
    ],
  });
  for (const year of ["2024", "2025"])
    expect(await read(`/top-users?period=y&date=${year}`)).toMatchObject({ top_users: [{ order_count: 1 }] });
  program.kill("SIGTERM");
  await program.exited;
});

test("no line of the log holds a secret, a body or an address of a customer", async () => {
  const queue = await freshQueue(emulator);
  const client = new Redis(redisServer.port);
  await client.call("ACL", "SETUSER", "shop", "on", ">redis-secret", "~*", "+@all");
  client.disconnect();
  const redisUrl = redisServer.freshUrl().replace("redis://", "redis://shop:redis-secret@");
  const program = await startProgram(shop(queue, redisUrl, { API_KEY: "api-secret", LOG_LEVEL: "trace" }));
  const private_ = { shipping_address: "22 Elm Street", payment_method: "card-4711" };
  await queue.send([body(private_), body({ ...private_, order_value: -1 }), `{"shipping_address":"22 Elm Street"`]);
  await waitFor("the rejects", async () => (await queue.depth()).deadLetter === 2);
  await fetch(`${program.url}/stats/global`, { headers: { authorization: "Bearer wrong-secret" } });
  program.kill("SIGTERM");
  await program.exited;
  expect(eventsOf(program.output()).filter(({ event }) => event === "order_rejected")).toHaveLength(2);
  expect(program.output()).not.toMatch(/secret|Elm Street|card-4711/);
});

test("a mistake that cannot stop the start is a warning", async () => {
  const env = { DATA_DIR: temporaryFolder(), NODE_ENV: "prod", REDIS_URI: "redis://user:secret@host" };
  const program = await startProgram(env);
  const warnings = eventsOf(program.output()).filter(({ event }) => event === "unknown_setting");
  expect(warnings.map(({ msg }) => msg)).toEqual([
    "NODE_ENV=prod has no effect: did you mean production?",
    "REDIS_URI has no effect: did you mean REDIS_URL?",
  ]);
  expect(program.output()).not.toContain("secret");
  program.kill("SIGTERM");
  await program.exited;
});

test("the queue URL of an emulator is enough, and the AWS SDK prints no warning of its own", async () => {
  const queue = await freshQueue(emulator);
  const { AWS_ENDPOINT_URL, ...env } = shop(queue, redisServer.freshUrl());
  const program = await startProgram(env);
  await sendOrders(queue, 20);
  await waitFor("the orders", async () => (await totalOrders(program)) === 20);
  program.kill("SIGTERM");
  await program.exited;
  expect(
    program
      .output()
      .split("\n")
      .filter((line) => line !== "" && !line.startsWith("{")),
  ).toEqual([]);
});

test("nothing on loopback is requested through the proxy of HTTP_PROXY", async () => {
  let proxied = "";
  const data = (_: unknown, bytes: Buffer) => {
    proxied += bytes;
  };
  const proxy = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data } });
  let exported = 0;
  await using collector = Bun.serve({ hostname: "127.0.0.1", port: 0, fetch: () => new Response(`${exported++}`) });
  const url = `http://127.0.0.1:${proxy.port}`;
  const proxies = { HTTP_PROXY: url, HTTPS_PROXY: url, http_proxy: url, NO_PROXY: ".example.com" };
  const otel = { OTEL_EXPORTER_OTLP_ENDPOINT: `http://localhost:${collector.port}`, OTEL_BSP_SCHEDULE_DELAY: "100" };
  const port = `${freePort()}`;
  const env = { ...proxies, ...otel, DATA_DIR: temporaryFolder(), PORT: port, CONSUMER_WORKERS: "1" };
  const program = await startProgram(env);

  const { send_orders } = eventsOf(program.output()).find(({ event }) => event === "started") ?? {};
  const PATH = process.env.PATH ?? "";
  const sending = Bun.spawn(["sh", "-c", `${send_orders} --orders 50`], { env: { ...proxies, PATH }, stderr: "pipe" });
  expect(await new Response(sending.stderr).text()).toContain("Sending 50 messages");
  expect(await sending.exited).toBe(0);
  await waitFor("the orders", async () => (await totalOrders(program)) === 50);
  await waitFor("the spans", () => exported > 0);

  expect(await Bun.file("Dockerfile").text()).toContain(`CMD ["orders", "health"]\n`);
  expect(await Bun.file("compose.yaml").text()).toContain("[CMD, orders, health]\n");
  const check = Bun.spawn([process.execPath, "orders.ts", "health"], { env: { ...proxies, PATH, PORT: port } });
  expect(await check.exited).toBe(0);
  expect(proxied).toBe("");
  proxy.stop(true);
  program.kill("SIGTERM");
  await program.exited;
});

describe("a program", () => {
  const isUp = async (port: number) => (await fetch(`http://127.0.0.1:${port}/ready`).catch(() => undefined))?.ok;
  const environment = (port: number, extra = {}) => ({
    ...{ PATH: process.env.PATH ?? "", PORT: `${port}`, EMBEDDED_QUEUE_PORT: "0", DATA_DIR: temporaryFolder() },
    ...extra,
  });

  // What `npx bun run start` starts below npx: a shell, `bun run` and the program. npx sends SIGTERM to the shell only.
  test.each(["SIGTERM", "SIGKILL"] as const)("that npx started stops when its shell ends with %s", async (signal) => {
    const port = freePort();
    const env = environment(port, { npm_lifecycle_event: "npx" });
    const shell = Bun.spawn(["sh", "-c", "bun run start; true"], { env, stdout: "ignore", stderr: "ignore" });
    await waitFor("the program", () => isUp(port), 30_000);
    shell.kill(signal);
    await waitFor("its end", async () => !(await isUp(port)), 5_000);
  });

  test.each(["bun index.ts", "bun run start"])(
    "that a shell started in the background with `%s` outlives it",
    async (command) => {
      const port = freePort();
      const options = { env: environment(port), stdout: "ignore", stderr: "ignore" } as const;
      const shell = Bun.spawn(["sh", "-c", `${command} & echo $! > "$DATA_DIR/pid"`], options);
      expect(await shell.exited).toBe(0);
      await waitFor("the program", () => isUp(port), 30_000);
      await Bun.sleep(1_500); // three times the interval of the check
      expect(await isUp(port)).toBe(true);
      process.kill(Number(await Bun.file(join(options.env.DATA_DIR, "pid")).text()), "SIGTERM");
      await waitFor("its end", async () => !(await isUp(port)), 5_000);
    },
  );

  test("whose log nobody reads counts, responds and stops", async () => {
    const queue = await freshQueue(emulator);
    const pipe = join(temporaryFolder(), "pipe");
    Bun.spawnSync(["mkfifo", pipe]);
    const reader = openSync(pipe, constants.O_RDONLY | constants.O_NONBLOCK);
    const port = freePort();
    const env = environment(port, { ...shop(queue, redisServer.freshUrl()), LOG_LEVEL: "debug" });
    const child = Bun.spawn([process.execPath, "index.ts"], { env, stdout: openSync(pipe, "w"), stderr: "ignore" });
    await waitFor("the program", () => isUp(port), 30_000);
    const copies = Array.from({ length: 10 }, () => body());
    for (let sent = 0; sent < 2_000; sent += 10) await queue.send(copies);
    await sendOrders(queue, 100);
    await waitFor("an empty queue", () => isEmpty(queue), 20_000);
    const stats = await fetch(`http://127.0.0.1:${port}/stats/global`);
    expect(await stats.json()).toMatchObject({ total_orders: 110 });
    expect((await fetch(`http://127.0.0.1:${port}/health`)).status).toBe(200);
    const before = performance.now();
    child.kill("SIGTERM");
    expect(await child.exited).toBe(0);
    expect(performance.now() - before).toBeLessThan(3_000);
    closeSync(reader);
  });
});

describe("a start that cannot be says so in one sentence and exits with 1:", () => {
  const freshEnv = () => ({ DATA_DIR: temporaryFolder() });

  async function failedStart(env: Record<string, string>) {
    const { child, output } = spawnProgram(env);
    const code = await child.exited;
    await waitFor("its words", () => output().length > 0);
    return { code, lines: output().trim().split("\n") };
  }

  const hanging = join(temporaryFolder(), "config");
  writeFileSync(hanging, "[default]\ncredential_process = sleep 20\n");

  test.each<[string, () => Record<string, string>, RegExp]>([
    [
      "a taken port",
      () => ({ ...freshEnv(), PORT: new URL(emulator.endpoint).port }),
      /^Cannot listen on 127\.0\.0\.1:\d+: the port is in use/,
    ],
    [
      "a taken queue port",
      () => ({ ...freshEnv(), EMBEDDED_QUEUE_PORT: new URL(emulator.endpoint).port }),
      /^Cannot start the embedded queue: 127\.0\.0\.1:(\d+) is in use.*AWS_ENDPOINT_URL=http:\/\/127\.0\.0\.1:\1 AWS_REGION=us-east-1 AWS_ACCESS_KEY_ID=any AWS_SECRET_ACCESS_KEY=any PORT=8001 bun run start$/,
    ],
    ["no such HOST", () => ({ ...freshEnv(), HOST: "no.such.host" }), /^Cannot listen on no\.such\.host:0: .*Set HOST/],
    [
      "a HOST of another machine",
      () => ({ ...freshEnv(), HOST: "192.0.2.1" }),
      /^Cannot listen on 192\.0\.2\.1:0: .*Set HOST/,
    ],
    [
      "one port for both",
      () => ({ ...freshEnv(), PORT: "18000", EMBEDDED_QUEUE_PORT: "18000" }),
      /^PORT and EMBEDDED_QUEUE_PORT are both 18000/,
    ],
    ["a wrong REDIS_URL", () => ({ REDIS_URL: "localhost" }), /^REDIS_URL must be redis:\/\/host:port/],
    [
      "no Redis there",
      () => ({ ...freshEnv(), REDIS_URL: `redis://127.0.0.1:${freePort()}` }),
      /^Cannot reach Redis at redis:.*: connection refused\. Check the address/,
    ],
    [
      "an unreachable endpoint",
      () => ({ ...AWS, ...freshEnv(), AWS_ENDPOINT_URL: `http://127.0.0.1:${freePort()}` }),
      /^Cannot use the queue orders-queue at http.*: connection refused\. Check AWS_ENDPOINT_URL/,
    ],
    ...[
      [
        "no region and no credentials",
        {},
        /: Region is missing; AWS credentials are missing\. Set .*AWS_REGION=us-east-1 AWS_ACC/,
      ],
      [
        "no region, which the URL of the queue names",
        { SQS_QUEUE_URL: "https://sqs.eu-west-1.amazonaws.com/123456789012/orders" },
        /: Region is missing; .*Set for example AWS_REGION=eu-west-1 AWS_ACC/,
      ],
      ["no credentials", { AWS_REGION: "us-east-1" }, /: AWS credentials are missing\. Set .* AWS_ACCESS_KEY_ID=/],
      [
        "a region with a blank",
        { ...AWS, AWS_REGION: "eu west" },
        /: Region not accepted: region="eu west".*Set .*AWS_REGION=/,
      ],
      [
        "a program for credentials that hangs",
        { AWS_REGION: "us-east-1", AWS_CONFIG_FILE: hanging },
        /: AWS credentials cannot be read: no response within 5 s\. Set /,
      ],
      ["an empty region", { ...AWS, AWS_REGION: "" }, /: Region not accepted: region="".*[^.]\. Set .*AWS_REGION=/],
    ].map(
      ([name, env, message]) =>
        [
          name,
          () => ({ ...freshEnv(), SQS_QUEUE_NAME: "q", AWS_EC2_METADATA_DISABLED: "true", ...(env as object) }),
          message,
        ] as [string, () => Record<string, string>, RegExp],
    ),
    [
      "the queue URL of an emulator that is not there",
      () => ({ ...AWS, ...freshEnv(), SQS_QUEUE_URL: `http://127.0.0.1:${freePort()}/000000000000/q` }),
      /^Cannot use the queue http:\/\/127\.0\.0\.1:\d+\/000000000000\/q: connection refused\. Check/,
    ],
  ])(
    "%s",
    async (_, env, message) => {
      const { code, lines } = await failedStart(env());
      expect(lines).toHaveLength(1);
      expect(lines[0]).toMatch(message);
      expect(code).toBe(1);
    },
    20_000,
  );

  const html = () => new Response("<html>", { headers: { "content-type": "text/html" } });
  test.each<[string, () => Response, string, RegExp]>([
    ["a web page", html, "http", /: the response is not in the protocol of SQS\. Check AWS_ENDPOINT_URL/],
    [
      "an error page",
      () => new Response("<html>", { status: 404 }),
      "http",
      /: the response is not in the protocol of SQS\./,
    ],
    ["another JSON API", () => Response.json({ hello: 1 }), "http", /: the response is not in the protocol of SQS\./],
    [
      "its error",
      () => Response.json({ error: "no" }, { status: 404 }),
      "http",
      /: the response is not in the protocol of/,
    ],
    ["an empty response", () => new Response(""), "http", /: the response is not in the protocol of SQS\./],
    [
      "a port without TLS",
      html,
      "https",
      /: the port does not accept TLS\. Check AWS_ENDPOINT_URL .*with http:\/\/ or/,
    ],
  ])("%s instead of SQS", async (_, fetch, scheme, message) => {
    await using server = Bun.serve({ hostname: "127.0.0.1", port: 0, fetch });
    const endpoint = `${scheme}://127.0.0.1:${server.port}`;
    const { code, lines } = await failedStart({ ...AWS, ...freshEnv(), AWS_ENDPOINT_URL: endpoint });
    expect(lines).toEqual([expect.stringMatching(message)]);
    expect(code).toBe(1);
  });

  test.each<[string, () => number, RegExp]>([
    [
      "Redis",
      () => redisServer.port,
      /: the (response is not in the protocol of SQS|server closed the connection)\. Check/,
    ],
    [
      "a port that expects TLS",
      () => closing.port,
      /: the server closed the connection\. Check AWS_ENDPOINT_URL .*or https:\/\//,
    ],
  ])("%s instead of SQS", async (_, port, message) => {
    const { lines } = await failedStart({ ...AWS, ...freshEnv(), AWS_ENDPOINT_URL: `http://127.0.0.1:${port()}` });
    expect(lines).toEqual([expect.stringMatching(message)]);
  });
  const closing = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data: (socket) => void socket.end() } });
  afterAll(() => closing.stop(true));

  test("every problem of the environment on a line of its own", async () => {
    const { code, lines } = await failedStart({ PORT: "x", LOG_LEVEL: "x" });
    expect(lines).toHaveLength(2);
    expect(code).toBe(1);
  });
});

describe("what a shop meets one day:", () => {
  test("an outage of six visibility timeouts dead-letters no orders with a redrive after 3 receives", async () => {
    const redis = await startRedisServer();
    const queue = await freshQueue(emulator, { VisibilityTimeout: "1" }, 3);
    const program = await startProgram(shop(queue, redis.freshUrl()));
    await sendOrders(queue, 50);
    await waitFor("the first orders", async () => (await totalOrders(program)) === 50);
    await redis.kill();
    await sendOrders(queue, 300);
    await waitFor("the workers to pause", () => program.output().split('"store_unavailable"').length > 2);
    const requests = async () =>
      Number(/action="ReceiveMessage"} (\d+)/.exec(await (await program.get("/metrics")).text())?.[1]);
    await waitFor("the receives in flight and their reports", async () => {
      const receives = await requests();
      await Bun.sleep(1_500);
      return receives === (await requests());
    });
    const before = await requests();
    await Bun.sleep(6_000); // six times the visibility timeout; as three minutes are to its usual 30 s
    expect(await requests()).toBe(before);
    await redis.start();
    const back = performance.now();
    await waitFor("counting to resume", async () => (await totalOrders(program).catch(() => 0)) > 50);
    expect(performance.now() - back).toBeLessThan(2000);
    await waitFor("the rest", async () => (await totalOrders(program)) === 350);
    await waitFor("the last delete", async () => (await queue.depth()).inFlight === 0);
    expect(await queue.depth()).toEqual({ visible: 0, inFlight: 0, deadLetter: 0 });
    program.kill("SIGTERM");
    await program.exited;
    await redis.stop();
  });

  test("a full disk under the embedded store pauses counting, and all counts when there is room", async () => {
    const queue = await freshQueue(emulator);
    const { REDIS_URL, ...env } = shop(queue, "");
    const program = await startProgram({ ...env, DATA_DIR: temporaryFolder() }, ["bash", "-c", FULL_DISK]);
    await sendOrders(queue, 3000);
    await waitFor("503", async () => (await health(program)).code === 503, 20_000);
    expect((await health(program)).problems?.join()).toMatch(/(store: |paused: ).*(full|I\/O)/);
    const counted = await totalOrders(program);
    expect(counted).toBeLessThan(3000);
    Bun.spawnSync(["prlimit", "--pid", `${program.pid}`, "--fsize=unlimited:"]);
    await waitFor("the rest", async () => (await totalOrders(program)) === 3000, 40_000);
    await waitFor("200", async () => (await health(program)).code === 200);
    expect((await queue.depth()).deadLetter).toBe(0);
    program.kill("SIGTERM");
    expect(await program.exited).toBe(0);
  });
});

/** No file may grow past 400 KiB; a write beyond it fails like one on a full disk, instead of ending the process. */
const FULL_DISK = 'trap "" XFSZ; ulimit -S -f 400; exec "$0" "$@"';
