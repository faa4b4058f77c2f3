import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { Agent, get, type IncomingMessage } from "node:http";
import { Elysia } from "elysia";
import { readConfig } from "../config.ts";
import { type Running, start } from "../index.ts";
import { openQueue } from "../queue/queue.ts";
import { locateQueue } from "../queue/setup.ts";
import { eventRoutes } from "../routes/events.ts";
import { type State, startLive } from "../routes/live.ts";
import { createDataLoss } from "../store/data-loss.ts";
import { openStore } from "../store/open.ts";
import { createSingleFlight } from "../store/single-flight.ts";
import type { Store } from "../store/store.ts";
import { logLines } from "./support/log-lines.ts";
import { body, order } from "./support/orders.ts";
import { eventsOf, startProgram, temporaryFolder } from "./support/program.ts";
import { type RedisServer, startRedisServer } from "./support/redis-server.ts";
import { waitFor } from "./support/wait-for.ts";

// Real processes on a busy machine: bun's five seconds would fail a test that is only slow.
setDefaultTimeout(60_000);

let redis: RedisServer;
let api: Running;
let store: Store;
beforeAll(async () => {
  redis = await startRedisServer();
  const url = redis.freshUrl();
  store = await openStore({ kind: "redis", url });
  const env = { PORT: "0", EMBEDDED_QUEUE_PORT: "0", CONSUMER_WORKERS: "0", LOG_LEVEL: "silent", REDIS_URL: url };
  api = await start(readConfig({ ...env, DATA_DIR: temporaryFolder() }));
});
afterAll(async () => {
  await Promise.all([api.stop(), store.close()]);
  await redis.stop();
});

interface Event {
  id: string;
  state: State;
  atMs: number;
}

/** Reads a stream until `close`. */
async function open(url: string, lastEventId?: string) {
  const abort = new AbortController();
  const headers: Record<string, string> = lastEventId === undefined ? {} : { "last-event-id": lastEventId };
  const response = await fetch(`${url}/events`, { headers, signal: abort.signal });
  const events: Event[] = [];
  let text = "";
  const ended = (async () => {
    for await (const chunk of response.body ?? []) {
      text += new TextDecoder().decode(chunk as Uint8Array);
      const blocks = text.split("\n\n");
      text = blocks.pop() ?? "";
      for (const block of blocks) {
        const [, id = "", data] = block.match(/^id: (.*)\ndata: (.*)$/) ?? [];
        if (data) events.push({ id, state: JSON.parse(data), atMs: performance.now() });
      }
    }
  })().catch(() => {});
  return { response, events, ended, close: () => abort.abort() };
}

describe("/events", () => {
  test("publishes the whole state at once, and every change within a second", async () => {
    const { response, events, close } = await open(api.url);
    expect(response.headers.get("content-type")).toBe("text/event-stream");
    expect(response.headers.get("cache-control")).toBe("no-store");
    await waitFor("the first event", () => events.length > 0);
    expect(events[0]?.state).toMatchObject({ total_orders: 0, total_revenue: 0, problems: [], workers: [] });
    expect(events[0]?.state.queue).toEqual({ visible: 0, in_flight: 0, dead_letter: 0, drain_seconds: 0 });
    expect(events[0]?.state.outcomes).toEqual({ counted: 0, corrected: 0, duplicate: 0, rejected: 0 });
    const from = performance.now();
    await store.record([order({ cents: 320_075 })]);
    await waitFor("the change", () => events.some(({ state }) => state.total_revenue === 3200.75));
    expect((events.at(-1)?.atMs ?? 0) - from).toBeLessThan(1000);
    expect(events.at(-1)?.state.total_orders).toBe(1);
    close();
  });

  test("the rate falls to 0 within ten seconds of the last order", async () => {
    const { events, close } = await open(api.url);
    await store.record([order()]);
    await waitFor("a rate", () => (events.at(-1)?.state.orders_per_second ?? 0) > 0);
    const from = performance.now();
    await waitFor("no rate", () => events.at(-1)?.state.orders_per_second === 0, 15_000);
    // Changes are published four times a second.
    expect(performance.now() - from).toBeLessThan(10_500);
    close();
  });

  test("sends an event every few seconds though nothing changes, and a sample a second", async () => {
    const { events, close } = await open(api.url);
    await Bun.sleep(7_000);
    close();
    const gaps = events.slice(1).map(({ atMs }, index) => atMs - (events[index]?.atMs ?? 0));
    expect(events.length).toBeGreaterThanOrEqual(3);
    expect(Math.max(...gaps)).toBeLessThan(4_000);
    const samples = events.flatMap(({ state }) => state.samples);
    expect(samples.length).toBeGreaterThanOrEqual(6);
    expect(samples.slice(1).every(([atMs], index) => atMs - (samples[index]?.[0] ?? 0) >= 1000)).toBe(true);
  });

  test("Last-Event-ID brings the samples that were missed, and only those", async () => {
    const first = await open(api.url);
    await waitFor("an event", () => first.events.length > 0);
    first.close();
    const { id = "", state } = first.events.at(-1) ?? {};
    expect(state?.samples.at(-1)?.[0]).toBe(Number(id));
    await Bun.sleep(2_500);
    const second = await open(api.url, id);
    await waitFor("an event", () => second.events.length > 0);
    second.close();
    const missed = second.events[0]?.state.samples ?? [];
    expect(missed.length).toBeGreaterThanOrEqual(1);
    expect(missed.length).toBeLessThanOrEqual(4);
    expect(missed.every(([atMs]) => atMs > Number(id))).toBe(true);
    const whole = await open(api.url, "odd");
    await waitFor("an event", () => whole.events.length > 0);
    whole.close();
    expect(whole.events[0]?.state.samples.length).toBeGreaterThan(missed.length);
  });

  test("reports that the store is unavailable with the last numbers, and that it is back", async () => {
    const { events, close } = await open(api.url);
    await waitFor("the first event", () => events.length > 0);
    const totalOrders = events[0]?.state.total_orders ?? -1;
    await redis.kill();
    await waitFor("the problem", () => events.at(-1)?.state.problems.length === 1);
    expect(events.at(-1)?.state.problems[0]).toStartWith("store: ");
    expect(events.at(-1)?.state.total_orders).toBe(totalOrders);
    await redis.start();
    await waitFor("the end of the problem", () => events.at(-1)?.state.problems.length === 0);
    close();
  });

  test("ends at the stop, which does not wait for it", async () => {
    const env = { PORT: "0", EMBEDDED_QUEUE_PORT: "0", CONSUMER_WORKERS: "0", LOG_LEVEL: "silent" };
    const running = await start(readConfig({ ...env, DATA_DIR: temporaryFolder() }));
    const { events, ended } = await open(running.url);
    await waitFor("the first event", () => events.length > 0);
    const from = performance.now();
    await running.stop();
    await ended;
    expect(performance.now() - from).toBeLessThan(2_000);
  });
});

test("after a step of the clock ahead and back, rate, time to drain and samples go on", async () => {
  const url = redis.freshUrl();
  const [shop, program] = await Promise.all([
    openStore({ kind: "redis", url }),
    startProgram(
      { DATA_DIR: temporaryFolder(), CONSUMER_WORKERS: "0", REDIS_URL: url },
      [],
      "tests/support/stepped-clock-program.ts",
    ),
  ]);
  const address = `${eventsOf(program.output()).find(({ event }) => event === "started")?.queue}`;
  const queue = openQueue(
    await locateQueue({ name: "orders-queue", endpoint: new URL(address).origin, embedded: true }),
  );
  await queue.send([body()]);
  const { events, close } = await open(program.url);
  const timesOf = (all: Event[]) => all.flatMap(({ state }) => state.samples.map(([atMs]) => atMs));
  const isAhead = (atMs: number) => atMs > Date.now() + 3_000_000;
  await waitFor("two samples", () => timesOf(events).length >= 2);
  program.kill("SIGUSR2");
  await waitFor("two samples an hour ahead", () => timesOf(events).filter(isAhead).length >= 2);
  const id = `${timesOf(events).filter(isAhead).at(-1)}`;
  program.kill("SIGUSR2");
  const recording = setInterval(() => void shop.record([order()]), 100);
  const before = events.length;
  const after = () => events.slice(before + 1).filter(({ state }) => !isAhead(Date.parse(state.as_of)));
  await waitFor("a rate", () => after().some(({ state }) => (state.orders_per_second ?? 0) > 0));
  await waitFor("a time to drain", () => (after().at(-1)?.state.queue?.drain_seconds ?? 0) > 0);
  await waitFor("samples of the present", () => timesOf(after()).filter((atMs) => !isAhead(atMs)).length >= 2);
  expect(await (await program.get("/metrics")).text()).toMatch(/^queue_drain_seconds [\d.e-]+$/m);
  const again = await open(program.url, id);
  await waitFor("what came after the last event", () => again.events.length > 0);
  expect(timesOf(again.events).length).toBeGreaterThanOrEqual(2);
  expect(timesOf(again.events).some(isAhead)).toBe(false);
  clearInterval(recording);
  close();
  again.close();
  program.kill("SIGTERM");
  await program.exited;
  await shop.close();
  queue.close();
});

test("one client can open 100 streams, and others still more", async () => {
  const request = (localAddress: string) => {
    const { promise, resolve, reject } = Promise.withResolvers<IncomingMessage>();
    get(`${api.url}/events`, { localAddress, agent: new Agent() }, resolve).on("error", reject);
    return promise;
  };
  const streams = await Promise.all(Array.from({ length: 100 }, () => request("127.0.0.1")));
  expect(new Set(streams.map(({ statusCode }) => statusCode))).toEqual(new Set([200]));
  const refused = await request("127.0.0.1");
  expect([refused.statusCode, refused.headers["content-type"]]).toEqual([429, "application/problem+json"]);
  expect((await refused.toArray()).join("")).toContain("100 streams of this address are open");
  const other = await request("127.0.0.2");
  expect(other.statusCode).toBe(200);
  streams[0]?.destroy();
  await waitFor("a place", async () => {
    const again = await request("127.0.0.1");
    again.destroy();
    return again.statusCode === 200;
  });
  for (const stream of [...streams, other]) stream.destroy();
});

test("a live view that is stopped in the middle of a read does not wait for the next one", async () => {
  const looking = Promise.withResolvers<{ value: { orders: number; cents: number }; asOfMs: number }>();
  const live = startLive({
    timeZone: "UTC",
    store: { check: async () => {} },
    dataLoss: createDataLoss({ store: { evictedKeys: async () => undefined }, log: logLines().log }),
    reads: { global: () => looking.promise },
    depth: async () => ({ visible: 0, inFlight: 0, deadLetter: 0 }),
    workers: () => [],
    outcomes: async () => ({ counted: 0, corrected: 0, duplicate: 0, rejected: 0 }),
  });
  const from = performance.now();
  const stopped = live.stop();
  looking.resolve({ value: { orders: 0, cents: 0 }, asOfMs: Date.now() });
  await stopped;
  expect(performance.now() - from).toBeLessThan(500);
});

test("a reader that does not read is dropped, and costs no memory meanwhile", async () => {
  // As live.ts does it, but as fast as it goes: at its own rate the network's buffers alone last for minutes.
  let watchers = 0;
  const text = "x".repeat(10_000);
  const live = {
    subscribe(watcher: (stateSince: () => State) => void) {
      watchers++;
      const timer = setInterval(() => watcher(() => ({ samples: [], problems: [text] }) as unknown as State), 1);
      return () => {
        watchers--;
        clearInterval(timer);
      };
    },
  };
  const parts = { live: live as never, stopping: new AbortController().signal };
  const app = new Elysia().use(eventRoutes(parts)).listen({ hostname: "127.0.0.1", port: 0 });
  let tail = "";
  const socket = await Bun.connect({
    hostname: "127.0.0.1",
    port: app.server?.port ?? 0,
    socket: {
      data(_, data) {
        tail = `${tail}${data}`.slice(-5);
      },
    },
  });
  socket.pause();
  socket.write("GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n");
  await waitFor("the watcher", () => watchers === 1);
  const before = process.memoryUsage().rss;
  await waitFor("the end of the stream", () => watchers === 0, 30_000);
  expect(process.memoryUsage().rss - before).toBeLessThan(64 * 2 ** 20);
  socket.resume();
  // The last chunk, of no bytes.
  await waitFor("the end of the answer", () => tail === "0\r\n\r\n");
  await app.stop(true);
});

test("the reason why nothing is counted is listed once, though the store can be read", async () => {
  const paused = { state: "paused" as const, reason: "Redis does not accept orders: closed" };
  const live = startLive({
    timeZone: "UTC",
    store,
    dataLoss: createDataLoss({ store, log: logLines().log }),
    reads: createSingleFlight(store),
    depth: async () => ({ visible: 0, inFlight: 0, deadLetter: 0 }),
    workers: () => [paused, paused, { state: "running" }],
    outcomes: async () => ({ counted: 0, corrected: 0, duplicate: 0, rejected: 0 }),
  });
  let problems: string[] = [];
  live.subscribe((stateSince) => {
    problems = stateSince(0).problems;
  });
  await waitFor("the problem", () => problems.includes("not counting: Redis does not accept orders: closed"));
  expect(problems).toHaveLength(1);
  await live.stop();
});
