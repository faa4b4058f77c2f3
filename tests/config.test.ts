import { describe, expect, test } from "bun:test";
import { ConfigError, readConfig } from "../config.ts";

const COLLECTOR = { OTEL_EXPORTER_OTLP_ENDPOINT: "http://collector:4318" };

function problemsOf(env: Record<string, string>): string[] {
  try {
    readConfig(env);
  } catch (error) {
    if (error instanceof ConfigError) return error.problems;
    throw error;
  }
  return [];
}

describe("readConfig()", () => {
  test("with nothing set names the embedded queue and store on loopback", () => {
    expect(readConfig({})).toMatchObject({
      http: { host: "127.0.0.1", port: 8000, api: "on" },
      queue: { kind: "embedded", name: "orders-queue", port: 4566 },
      store: { kind: "sqlite", path: ".data/orders.db" },
      consumer: { onValueMismatch: "correct" },
      log: { level: "info" },
    });
    expect(readConfig({}).consumer.workers).toBeWithin(1, 5);
  });

  test.each([
    [{ SQS_QUEUE_NAME: "mine" }, { kind: "sqs", name: "mine" }],
    [
      { AWS_ENDPOINT_URL: "http://localhost:4566" },
      { kind: "sqs", name: "orders-queue", endpoint: "http://localhost:4566" },
    ],
    [
      { AWS_ENDPOINT_URL: "http://a:1", AWS_ENDPOINT_URL_SQS: "http://b:2" },
      { kind: "sqs", name: "orders-queue", endpoint: "http://b:2" },
    ],
    [
      { SQS_QUEUE_URL: "https://sqs.eu-west-1.amazonaws.com/1/q" },
      { kind: "sqs", name: "orders-queue", url: "https://sqs.eu-west-1.amazonaws.com/1/q" },
    ],
    [
      { SQS_QUEUE_URL: "https://sqs.eu-west-1.amazonaws.com/1/q.fifo" },
      { kind: "sqs", name: "orders-queue", url: "https://sqs.eu-west-1.amazonaws.com/1/q.fifo" },
    ],
    [{ SQS_QUEUE_NAME: `${"q".repeat(71)}.fifo` }, { kind: "sqs", name: `${"q".repeat(71)}.fifo` }],
    [
      { EMBEDDED_QUEUE_PORT: "0", DATA_DIR: "/d" },
      { kind: "embedded", name: "orders-queue", port: 0, dir: "/d/queue" },
    ],
  ])("chooses the queue by %j", (env, queue) => {
    expect(readConfig(env as Record<string, string>).queue).toEqual({ client: "fetch", ...queue } as never);
  });

  test("chooses each half on its own", () => {
    expect(readConfig({ REDIS_URL: "redis://r:6379" })).toMatchObject({
      queue: { kind: "embedded" },
      store: { kind: "redis", url: "redis://r:6379" },
    });
    expect(readConfig({ SQS_QUEUE_NAME: "q" })).toMatchObject({
      queue: { kind: "sqs" },
      store: { kind: "sqlite" },
    });
  });

  test.each([
    [{}, undefined],
    [COLLECTOR, { sampleRatio: 1 }],
    [{ OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: "https://c/v1/traces" }, { sampleRatio: 1 }],
    [{ ...COLLECTOR, OTEL_SDK_DISABLED: "true" }, undefined],
    [{ ...COLLECTOR, OTEL_SDK_DISABLED: "false" }, { sampleRatio: 1 }],
    [{ ...COLLECTOR, OTEL_TRACES_EXPORTER: "none" }, undefined],
    [{ OTEL_EXPORTER_OTLP_ENDPOINT: "nonsense", OTEL_SDK_DISABLED: "TRUE" }, undefined],
    [{ ...COLLECTOR, OTEL_TRACES_SAMPLER: "always_off" }, { sampleRatio: 0 }],
    [{ ...COLLECTOR, OTEL_TRACES_SAMPLER: "parentbased_traceidratio" }, { sampleRatio: 1 }],
    [{ ...COLLECTOR, OTEL_TRACES_SAMPLER: "traceidratio", OTEL_TRACES_SAMPLER_ARG: "0.25" }, { sampleRatio: 0.25 }],
  ])("traces or not by %j", (env, tracing) => {
    expect(readConfig(env as Record<string, string>).tracing).toEqual(tracing as never);
  });

  test.each([
    ["r1:6379", { nodes: ["r1:6379"] }],
    ["r1:6379, 10.0.0.2:7000 ,r-3.internal:6379", { nodes: ["r1:6379", "10.0.0.2:7000", "r-3.internal:6379"] }],
    [
      "rediss://shop:p%40ss@r1:6379,r2:6379",
      { nodes: ["r1:6379", "r2:6379"], username: "shop", password: "p@ss", tls: true },
    ],
    ["redis://:secret@r1:6379", { nodes: ["r1:6379"], password: "secret" }],
  ])("reads the cluster nodes %s", (text, address) => {
    const { store } = readConfig({ REDIS_CLUSTER_NODES: text, REDIS_WAIT_REPLICAS: "1" });
    expect(store).toEqual({ kind: "cluster", shards: 16, waitReplicas: 1, ...address });
  });

  test("takes an empty value for an unset one", () => {
    expect(readConfig({ PORT: "", REDIS_URL: " ", API_KEY: "", SQS_QUEUE_NAME: "" })).toEqual(readConfig({}));
  });

  test.each([
    [{ PORT: "70000" }, /^PORT must be an integer from 0 to 65535: got "70000"$/],
    [{ PORT: "8e3" }, /^PORT must be an integer/],
    [{ PORT: "-1" }, /^PORT must be an integer/],
    [{ CONSUMER_WORKERS: "two" }, /^CONSUMER_WORKERS must be an integer from 0 to 64: got "two"$/],
    [{ CONSUMER_CONCURRENCY: "0" }, /^CONSUMER_CONCURRENCY must be an integer from 1/],
    [{ ON_VALUE_MISMATCH: "ignore" }, /^ON_VALUE_MISMATCH must be one of correct, reject: got "ignore"$/],
    [{ OTEL_EXPORTER_OTLP_ENDPOINT: "collector:4318" }, /^OTEL_EXPORTER_OTLP_ENDPOINT must be a URL/],
    [{ OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: "grpc://c:1" }, /^OTEL_EXPORTER_OTLP_TRACES_ENDPOINT must be a URL/],
    [{ ...COLLECTOR, OTEL_TRACES_SAMPLER: "xray" }, /^OTEL_TRACES_SAMPLER must be one of always_on/],
    [
      { ...COLLECTOR, OTEL_TRACES_SAMPLER: "traceidratio", OTEL_TRACES_SAMPLER_ARG: "10%" },
      /^OTEL_TRACES_SAMPLER_ARG must be a number from 0 to 1$/,
    ],
    [{ API: "no" }, /^API must be one of on, off: got "no"$/],
    [{ API: "off", CONSUMER_WORKERS: "0" }, /^CONSUMER_WORKERS=0 and API=off leave nothing to do/],
    [{ LOG_LEVEL: "loud" }, /^LOG_LEVEL must be one of trace/],
    [{ SQS_QUEUE_URL: "orders" }, /^SQS_QUEUE_URL must be a URL/],
    ...["a b", ".fifo", "a.fifo.fifo", "a.fifo-b", "a.FIFO", "q".repeat(77), `${"q".repeat(72)}.fifo`].map(
      (SQS_QUEUE_NAME) => [{ SQS_QUEUE_NAME }, /^SQS_QUEUE_NAME must be a queue name/] as const,
    ),
    [{ AWS_ENDPOINT_URL: "localhost:4566" }, /^AWS_ENDPOINT_URL must be a URL/],
    [{ REDIS_URL: "http://r" }, /^REDIS_URL must be a URL that begins with redis:\/\/ or rediss:\/\/$/],
    [{ REDIS_URL: "localhost:6379" }, /^REDIS_URL must be/],
    ...["a", "a:1,", "a:x", "a:1 b:2", "a:99999", "http://a:1", "redis://u:p w@a:1"].map(
      (REDIS_CLUSTER_NODES) =>
        [{ REDIS_CLUSTER_NODES }, /^REDIS_CLUSTER_NODES must be host:port, with commas/] as const,
    ),
    [{ REDIS_CLUSTER_NODES: "a:1", REDIS_URL: "redis://r" }, /^REDIS_URL and REDIS_CLUSTER_NODES are both set/],
    [{ REDIS_SHARDS: "1" }, /^REDIS_SHARDS must be an integer from 2 to 256/],
    [{ REDIS_WAIT_REPLICAS: "-1" }, /^REDIS_WAIT_REPLICAS must be an integer from 0 to 5/],
  ])("refuses %j", (env, message) => {
    const problems = problemsOf(env as Record<string, string>);
    expect(problems).toHaveLength(1);
    expect(problems[0]).toMatch(message);
  });

  test("lists every problem at once", () => {
    expect(problemsOf({ PORT: "x", REDIS_URL: "x", LOG_LEVEL: "x" })).toHaveLength(3);
  });

  test("does not repeat a password", () => {
    expect(problemsOf({ REDIS_URL: "redi://user:secret@host" }).join()).not.toContain("secret");
    expect(problemsOf({ REDIS_CLUSTER_NODES: "redi://user:secret@host" }).join()).not.toContain("secret");
  });

  test("refuses the embedded halves in production", () => {
    expect(problemsOf({ NODE_ENV: "production" })).toHaveLength(2);
    expect(problemsOf({ NODE_ENV: "production", REDIS_URL: "redis://r" })).toEqual([
      "NODE_ENV=production needs a queue: set SQS_QUEUE_URL or SQS_QUEUE_NAME",
    ]);
    expect(problemsOf({ NODE_ENV: "production", REDIS_URL: "redis://r", SQS_QUEUE_NAME: "q" })).toEqual([]);
  });
});
