import { describe, expect, test } from "bun:test";
import { ConfigError, readConfig } from "../config.ts";
import { bypassProxyForLoopback } from "../proxy.ts";

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
      http: { host: "127.0.0.1", port: 8000 },
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

  test("chooses queue and store independently", () => {
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

  const node = (host: string, port = 6379) => ({ host, port });

  test.each([
    ["r1:6379", { nodes: [node("r1")] }],
    [
      "r1:6379, 10.0.0.2:7000 ,r-3.internal:6379",
      { nodes: [node("r1"), node("10.0.0.2", 7000), node("r-3.internal")] },
    ],
    ["[::1]:7000,[fe80::2]:7000", { nodes: [node("::1", 7000), node("fe80::2", 7000)] }],
    [
      "rediss://shop:p%40ss@r1:6379,r2:6379",
      { nodes: [node("r1"), node("r2")], username: "shop", password: "p@ss", tls: true },
    ],
    ["redis://:p%25ss@r1:6379", { nodes: [node("r1")], password: "p%ss" }],
  ])("reads the cluster nodes %s", (text, address) => {
    const { store } = readConfig({ REDIS_CLUSTER_NODES: text, REDIS_WAIT_REPLICAS: "1", REDIS_KEY_PREFIX: "shop1" });
    expect(store).toEqual({ kind: "cluster", waitReplicas: 1, keyPrefix: "shop1", ...address });
  });

  test.each([
    ["redis+sentinel://s1:6379/orders", { sentinels: [node("s1")] }],
    ["redis+sentinel://s1:6379,[::1]:7000/orders/3", { sentinels: [node("s1"), node("::1", 7000)], db: 3 }],
    ["redis+sentinel://:p%25ss@s1:6379/orders", { sentinels: [node("s1")], password: "p%ss" }],
    [
      "rediss+sentinel://shop:p%40%2Fss@s1:6379/orders",
      { sentinels: [node("s1")], username: "shop", password: "p@/ss", tls: true },
    ],
  ])("reads the Sentinels %s", (text, address) => {
    const { store } = readConfig({ REDIS_URL: text });
    expect(store).toEqual({ kind: "redis", waitReplicas: 0, name: "orders", db: 0, ...address });
  });

  test.each([
    ["redis://r", "redis://r"],
    ["redis://[::1]:7000", "redis://[::1]:7000"],
    ["rediss://shop:p%25%40ss@r:6379/1", "rediss://shop:p%25%40ss@r:6379/1"],
    ["REDISS://r:6379/", "rediss://r:6379/"],
  ])("reads the Redis %s", (text, url) => {
    expect(readConfig({ REDIS_URL: text }).store).toEqual({ kind: "redis", waitReplicas: 0, url });
  });

  test("takes an empty value for an unset one", () => {
    expect(readConfig({ PORT: "", REDIS_URL: " ", API_KEY: "", REDIS_KEY_PREFIX: "", SQS_QUEUE_NAME: "" })).toEqual(
      readConfig({}),
    );
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
    [{ LOG_LEVEL: "loud" }, /^LOG_LEVEL must be one of trace/],
    [{ SQS_QUEUE_URL: "orders" }, /^SQS_QUEUE_URL must be a URL/],
    ...["a b", ".fifo", "a.fifo.fifo", "a.fifo-b", "a.FIFO", "q".repeat(77), `${"q".repeat(72)}.fifo`].map(
      (SQS_QUEUE_NAME) => [{ SQS_QUEUE_NAME }, /^SQS_QUEUE_NAME must be a queue name/] as const,
    ),
    [{ AWS_ENDPOINT_URL: "localhost:4566" }, /^AWS_ENDPOINT_URL must be a URL/],
    ...[
      ...["http://r", "localhost:6379", "redis://", "redis://:pass/word@r", "redis://r:99999"],
      ...[
        "redis+sentinel://s:1",
        "redis+sentinel://s:1/",
        "redis+sentinel://s:1/name/x",
        "redis+sentinel://s:1/name?db=1",
      ],
    ].map((REDIS_URL) => [{ REDIS_URL }, /^REDIS_URL must be redis:\/\/host:port, rediss:\/\/ for TLS, or/] as const),
    [{ REDIS_URL: "redis+sentinel://s1,s2:1/name" }, /^REDIS_URL after redis\+sentinel:\/\/ must be host:port, or/],
    ...["redis://r?keyPrefix=shop1", "redis://r:6379/1?db=2", "redis://r/#shop1"].map(
      (REDIS_URL) => [{ REDIS_URL }, /^REDIS_URL must not have parameters after \? or #: set a key prefix/] as const,
    ),
    ...["redis://r/orders", "redis://r/1/2", "redis://r/-1"].map(
      (REDIS_URL) => [{ REDIS_URL }, /^REDIS_URL may end with a database number only, such as \/1$/] as const,
    ),
    ...["redis://:p%ss@r", "redis://p%ss:x@r", "redis+sentinel://:p%ss@s:1/name"].map(
      (REDIS_URL) => [{ REDIS_URL }, /^REDIS_URL: a % in user or password must be written as %25$/] as const,
    ),
    [
      { REDIS_CLUSTER_NODES: "redis://:p%ss@r:1" },
      /^REDIS_CLUSTER_NODES: a % in user or password must be written as %25$/,
    ],
    ...["a", "a:1,", "a:x", "a:1 b:2", "a:99999", "http://a:1", "redis://u:p w@a:1"].map(
      (REDIS_CLUSTER_NODES) => [{ REDIS_CLUSTER_NODES }, /^REDIS_CLUSTER_NODES must be host:port, or/] as const,
    ),
    [{ REDIS_CLUSTER_NODES: "a:1", REDIS_URL: "redis://r" }, /^REDIS_URL and REDIS_CLUSTER_NODES are both set/],
    ...["a:b", "{x}", "a b", "user", "x".repeat(65)].map(
      (REDIS_KEY_PREFIX) =>
        [
          { REDIS_KEY_PREFIX, REDIS_URL: "redis://r" },
          /^REDIS_KEY_PREFIX must be 1 to 64 letters, digits, _, \. or -, and not user: got "/,
        ] as const,
    ),
    [{ REDIS_KEY_PREFIX: "shop1" }, /^REDIS_KEY_PREFIX needs REDIS_URL or REDIS_CLUSTER_NODES$/],
    [{ REDIS_WAIT_REPLICAS: "-1" }, /^REDIS_WAIT_REPLICAS must be an integer from 0 to 5/],
  ])("refuses %j", (env, message) => {
    const problems = problemsOf(env as Record<string, string>);
    expect(problems).toHaveLength(1);
    expect(problems[0]).toMatch(message);
  });

  test("lists every problem at once", () => {
    expect(problemsOf({ PORT: "x", REDIS_URL: "x", LOG_LEVEL: "x" })).toHaveLength(3);
  });

  test.each([
    "redi://user:secret@host",
    "redis://user:secret@host?db=1",
    "redis://user:secret@host/x",
    "redis://user:secret%@host",
    "redis://:secret/@host",
    "redis+sentinel://user:secret@host/name",
    "redis+sentinel://user:secret%@host:1/name",
  ])("does not repeat the password of %s", (address) => {
    for (const name of ["REDIS_URL", "REDIS_CLUSTER_NODES"]) {
      const problems = problemsOf({ [name]: address }).join();
      expect(problems).toContain(name);
      expect(problems).not.toContain("secret");
      expect(problems).not.toContain("user:");
    }
  });

  test("refuses the embedded queue and store in production", () => {
    expect(problemsOf({ NODE_ENV: "production" })).toHaveLength(2);
    expect(problemsOf({ NODE_ENV: "production", REDIS_URL: "redis://r" })).toEqual([
      "NODE_ENV=production needs a queue: set SQS_QUEUE_URL or SQS_QUEUE_NAME",
    ]);
    expect(problemsOf({ NODE_ENV: "production", REDIS_URL: "redis://r", SQS_QUEUE_NAME: "q" })).toEqual([]);
  });
});

test.each([
  [{}, { NO_PROXY: "localhost,127.0.0.0/8,::1" }],
  [{ NO_PROXY: ".corp" }, { NO_PROXY: ".corp,localhost,127.0.0.0/8,::1" }],
  [
    { NO_PROXY: ".corp", no_proxy: ".other" },
    { NO_PROXY: ".corp", no_proxy: ".other,localhost,127.0.0.0/8,::1" },
  ],
  [
    { NO_PROXY: ".corp", no_proxy: "" },
    { NO_PROXY: ".corp,localhost,127.0.0.0/8,::1", no_proxy: "" },
  ],
])("bypassProxyForLoopback() changes %j to %j", (env, expected) => {
  bypassProxyForLoopback(env);
  expect(env).toEqual(expected as never);
});
