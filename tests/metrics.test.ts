import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { Registry } from "prom-client";
import { createConsumerMetrics } from "../consumer/metrics.ts";
import type { Emulator } from "../queue/emulator.ts";
import type { Queue } from "../queue/queue.ts";
import { metricsRoutes } from "../routes/metrics.ts";
import { ENVELOPES } from "../scripts/envelopes.ts";
import { createDataLoss } from "../store/data-loss.ts";
import { logLines } from "./support/log-lines.ts";
import { body } from "./support/orders.ts";
import { type Program, startProgram } from "./support/program.ts";
import { promtool, type Scrape, scrape } from "./support/prometheus.ts";
import { freshQueue, startTestEmulator } from "./support/queues.ts";
import { type RedisServer, startRedisServer } from "./support/redis-server.ts";
import { waitFor } from "./support/wait-for.ts";

// Real processes on a busy machine: bun's five seconds would fail a test that is only slow.
setDefaultTimeout(60_000);

let redisServer: RedisServer;
let emulator: Emulator;
let program: Program;
let scraped: Scrape;
beforeAll(async () => {
  [redisServer, emulator] = await Promise.all([startRedisServer(), startTestEmulator()]);
  const queue = await freshQueue(emulator);
  program = await startProgram({
    AWS_REGION: "us-east-1",
    AWS_ACCESS_KEY_ID: "test",
    AWS_SECRET_ACCESS_KEY: "test",
    AWS_ENDPOINT_URL: emulator.endpoint,
    SQS_QUEUE_URL: queue.address.url,
    REDIS_URL: redisServer.freshUrl(),
    CONSUMER_WORKERS: "2",
  });
  const twice = body();
  const old = ENVELOPES.sns(body({ order_timestamp: "1970-01-01T00:00:00Z" }), 1, 0);
  await queue.send([twice, twice, old, body({ order_value: 99.99 }), "{"]);
  await waitFor("the reports of five messages", async () => {
    scraped = await scrape(program.url);
    const { samples } = scraped;
    const deleted = samples.get('queue_messages{state="in_flight"}') === 0;
    return sumOf("orders_total") === 5 && deleted && samples.has('sqs_requests_total{action="DeleteMessageBatch"}');
  });
});
afterAll(async () => {
  program.kill("SIGTERM");
  await program.exited;
  await Promise.all([redisServer.stop(), emulator.stop()]);
});

const sumOf = (name: string) =>
  [...scraped.samples].reduce((sum, [series, value]) => sum + (series.startsWith(`${name}{`) ? value : 0), 0);

describe("what a program that has counted orders tells Prometheus", () => {
  test("is in the format, with units and help as promtool wants them", async () => {
    expect(await promtool(["check", "metrics"], scraped.text)).toEqual({ code: 0, output: "" });
  });

  test.each([
    ['orders_total{outcome="counted"}', 2],
    ['orders_total{outcome="corrected"}', 1],
    ['orders_total{outcome="duplicate"}', 1],
    ['orders_total{outcome="rejected"}', 1],
    ['order_envelopes_total{envelope="none"}', 4],
    ['order_envelopes_total{envelope="sns"}', 1],
    ['order_envelopes_total{envelope="eventbridge"}', 0],
    ['order_envelopes_total{envelope="sns+eventbridge"}', 0],
    ['orders_implausible_date_total{direction="future"}', 0],
    ['orders_implausible_date_total{direction="past"}', 1],
    ["order_lag_seconds_count", 4],
    ['order_lag_seconds_bucket{le="+Inf"}', 4],
    ['consumer_workers{state="running"}', 2],
    ['consumer_workers{state="paused"}', 0],
    ['consumer_workers{state="restarting"}', 0],
    ['queue_messages{state="visible"}', 0],
    ['queue_messages{state="in_flight"}', 0],
    ['queue_messages{state="dead_letter"}', 1],
    ['sqs_errors_total{action="ReceiveMessage"}', 0],
    ["marker_window_seconds", 19 * 24 * 3600],
  ])("%s is %d", (series, value) => {
    expect(scraped.samples.get(series)).toBe(value);
  });

  test("has a sample of everything else", () => {
    for (const series of [
      'sqs_requests_total{action="ReceiveMessage"}',
      'sqs_requests_total{action="DeleteMessageBatch"}',
      "store_apply_seconds_count",
      'http_request_duration_seconds_count{route="/metrics",method="GET",status="200"}',
      "process_cpu_seconds_total",
      "process_resident_memory_bytes",
      "process_start_time_seconds",
      "process_open_fds",
    ])
      expect(scraped.samples.get(series), series).toBeGreaterThan(0);
  });

  test("reports how many requests an order took, and what a million would cost", () => {
    const perOrder = sumOf("sqs_requests_total") / 3;
    expect(scraped.samples.get("sqs_requests_per_order")).toBeCloseTo(perOrder, 9);
    expect(scraped.samples.get("sqs_dollars_per_million_orders")).toBeCloseTo(perOrder * 0.4, 9);
  });

  test("reports when each worker last made progress", () => {
    const ages = [1, 2].map((worker) => scraped.samples.get(`consumer_poll_age_seconds{worker="${worker}"}`));
    // An idle worker waits one second for a message.
    for (const age of ages) expect(age).toBeWithin(0, 5);
  });
});

describe("a gauge whose value is not known", () => {
  let queue: Queue;
  beforeAll(async () => {
    queue = await freshQueue(emulator);
  });

  /** /metrics of a process whose consumers have counted nothing, with this time to drain. */
  async function metrics(drainSeconds: () => Promise<number | undefined>) {
    const { registry } = createConsumerMetrics();
    const app = metricsRoutes({
      registry: new Registry(),
      store: { markerWindowSeconds: async () => 1_641_600 },
      dataLoss: createDataLoss({ store: { evictedKeys: async () => undefined }, log: logLines().log }),
      depth: queue.depth,
      workers: () => [{ state: "restarting" }],
      threadMetrics: async () => [await registry.getMetricsAsJSON()],
      drainSeconds,
    });
    return await (await app.handle(new Request("http://localhost/metrics"))).text();
  }

  test("has no sample", async () => {
    const text = await metrics(async () => undefined);
    expect(text).not.toMatch(/^(queue_drain_seconds|sqs_requests_per_order|sqs_dollars_|consumer_poll_age_seconds)/m);
    expect(text).toContain("# TYPE queue_drain_seconds gauge");
    expect(await promtool(["check", "metrics"], text)).toEqual({ code: 0, output: "" });
  });

  test.each([
    [90, "90"],
    [0, "0"],
    [Number.POSITIVE_INFINITY, "+Inf"],
  ])("has one when it is known: %d", async (seconds, sample) => {
    const text = await metrics(async () => seconds);
    expect(text).toMatch(new RegExp(`^queue_drain_seconds ${sample.replace("+", "\\+")}$`, "m"));
    expect((await promtool(["check", "metrics"], text)).code).toBe(0);
  });

  test("takes no other metric with it when it cannot be found out", async () => {
    const text = await metrics(() => Promise.reject(new Error("connection refused")));
    expect(text).not.toMatch(/^queue_drain_seconds/m);
    expect(text).toContain('orders_total{outcome="counted"} 0');
  });
});
