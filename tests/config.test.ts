import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { ConfigError, readConfig } from "../config.ts";
import { bypassProxyForLoopback } from "../loopback.ts";

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
    [undefined, "UTC"],
    ["", "UTC"],
    ["utc", "UTC"],
    ["Europe/Berlin", "Europe/Berlin"],
    ["europe/berlin", "Europe/Berlin"],
    ["Asia/Calcutta", "Asia/Calcutta"],
  ])("TIME_ZONE %j is %s", (name, timeZone) => {
    expect(readConfig(name === undefined ? {} : { TIME_ZONE: name }).timeZone).toBe(timeZone);
  });

  test.each([
    ["berlin", "Europe/Berlin"],
    ["new york", "America/New_York"],
    ["Middle-earth/Shire", "Europe/Berlin"],
    ["+02:00", "Europe/Berlin"],
    ["-05", "Europe/Berlin"],
    ["T10:00[Asia/Tokyo]", "Europe/Berlin"],
    ["Europe/Berlin\0", "Europe/Berlin"],
  ])("TIME_ZONE %j is a problem that names %s", (name, meant) => {
    expect(problemsOf({ TIME_ZONE: name })).toEqual([
      `TIME_ZONE must be the IANA name of a time zone such as ${meant}: got "${name}"`,
    ]);
  });

  test("a misspelling of TIME_ZONE is a warning", () => {
    expect(readConfig({ TIMEZONE: "Asia/Tokyo" }).warnings).toEqual([
      "TIMEZONE has no effect: did you mean TIME_ZONE?",
    ]);
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
    [
      { SQS_QUEUE_URL: "http://localhost.localstack.cloud:4566/000000000000/q" },
      {
        kind: "sqs",
        name: "orders-queue",
        url: "http://localhost.localstack.cloud:4566/000000000000/q",
        endpoint: "http://localhost.localstack.cloud:4566",
      },
    ],
    [
      { SQS_QUEUE_URL: "http://127.0.0.1:4566/000000000000/q", AWS_ENDPOINT_URL: "http://sqs:4566" },
      {
        kind: "sqs",
        name: "orders-queue",
        url: "http://127.0.0.1:4566/000000000000/q",
        endpoint: "http://sqs:4566",
      },
    ],
    [
      { SQS_QUEUE_URL: "https://vpce-1.sqs.eu-west-1.vpce.amazonaws.com/1/q" },
      { kind: "sqs", name: "orders-queue", url: "https://vpce-1.sqs.eu-west-1.vpce.amazonaws.com/1/q" },
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
    [{ ON_IMPLAUSIBLE_DATE: "warn" }, /^ON_IMPLAUSIBLE_DATE must be one of count, reject: got "warn"$/],
    [{ OTEL_EXPORTER_OTLP_ENDPOINT: "collector:4318" }, /^OTEL_EXPORTER_OTLP_ENDPOINT must be a valid URL/],
    [{ OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: "grpc://c:1" }, /^OTEL_EXPORTER_OTLP_TRACES_ENDPOINT must be a valid URL/],
    [{ ...COLLECTOR, OTEL_TRACES_SAMPLER: "xray" }, /^OTEL_TRACES_SAMPLER must be one of always_on/],
    [
      { ...COLLECTOR, OTEL_TRACES_SAMPLER: "traceidratio", OTEL_TRACES_SAMPLER_ARG: "10%" },
      /^OTEL_TRACES_SAMPLER_ARG must be a number from 0 to 1$/,
    ],
    [{ LOG_LEVEL: "loud" }, /^LOG_LEVEL must be one of trace/],
    [{ SQS_QUEUE_URL: "orders" }, /^SQS_QUEUE_URL must be a valid URL/],
    ...["a b", ".fifo", "a.fifo.fifo", "a.fifo-b", "a.FIFO", "q".repeat(77), `${"q".repeat(72)}.fifo`].map(
      (SQS_QUEUE_NAME) => [{ SQS_QUEUE_NAME }, /^SQS_QUEUE_NAME must be a queue name/] as const,
    ),
    [{ AWS_ENDPOINT_URL: "localhost:4566" }, /^AWS_ENDPOINT_URL must be a valid URL/],
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
    ...["   ", "kéy", "one\ntwo", "tab\tkey"].map(
      (API_KEY) => [{ API_KEY }, /^API_KEY must be one line of printable ASCII, and not blank$/] as const,
    ),
    ...["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"].map(
      (name) =>
        [
          { SQS_QUEUE_NAME: "q", [name]: "secret\n" },
          new RegExp(`^${name} must be one line of printable ASCII, and not blank$`),
        ] as const,
    ),
    ...[
      "http://user:secret@h:1/1/q",
      "http://secret@h:1/1/q",
      "http://h:1/1/q?token=secret",
      "http://h:1/1/q#secret",
    ].flatMap((url) =>
      ["SQS_QUEUE_URL", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_SQS"].map(
        (name) =>
          [
            { [name]: url },
            new RegExp(`^${name} must not have a user, a password, or parameters after \\? or #$`),
          ] as const,
      ),
    ),
    [{ PORT: "4566" }, /^PORT and EMBEDDED_QUEUE_PORT are both 4566: set one of them to another port$/],
    [{ EMBEDDED_QUEUE_PORT: "8000" }, /^PORT and EMBEDDED_QUEUE_PORT are both 8000/],
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
    "redis://host/?password=secret",
    "redis+sentinel://host:1/name?password=secret",
    "redis://host/secret",
  ])("does not repeat the password of %s", (address) => {
    for (const name of ["REDIS_URL", "REDIS_CLUSTER_NODES"]) {
      const problems = problemsOf({ [name]: address }).join();
      expect(problems).toContain(name);
      expect(problems).not.toContain("secret");
      expect(problems).not.toContain("user:");
    }
  });

  test.each([
    [{ API_KEY: " key of several words\n" }, "key of several words"],
    [{ API_KEY: "" }, undefined],
  ])("reads the API key of %j", (env, apiKey) => {
    expect(readConfig(env).http.apiKey).toBe(apiKey as never);
  });

  test("leaves credentials alone that only the embedded queue would use", () => {
    expect(problemsOf({ AWS_SECRET_ACCESS_KEY: "secret\n" })).toEqual([]);
    expect(problemsOf({ PORT: "0", EMBEDDED_QUEUE_PORT: "0" })).toEqual([]);
    expect(problemsOf({ PORT: "4566", SQS_QUEUE_NAME: "q" })).toEqual([]);
  });

  test.each([
    ["CONSUMER_WORKER", "CONSUMER_WORKERS"],
    ["REDIS_URI", "REDIS_URL"],
    ["REDISURL", "REDIS_URL"],
    ["redis_url", "REDIS_URL"],
    ["SQS_QUEUE", "SQS_QUEUE_URL or SQS_QUEUE_NAME"],
    ["QUEUE_URL", "SQS_QUEUE_URL"],
    ["APIKEY", "API_KEY"],
    ["RATELIMIT", "RATE_LIMIT"],
    ["CONSUMER_CONCURENCY", "CONSUMER_CONCURRENCY"],
    ["ON_VALUE_MISMACTH", "ON_VALUE_MISMATCH"],
  ])("warns of %s, which looks like %s", (name, expected) => {
    expect(readConfig({ [name]: "1" }).warnings).toEqual([`${name} has no effect: did you mean ${expected}?`]);
  });

  test("does not warn of the variables of other programs, nor of a name that resembles one that is set", () => {
    const kubernetes = [
      ..."REDIS_PORT REDIS_SERVICE_HOST REDIS_SERVICE_PORT REDIS_PORT_6379_TCP_ADDR REDIS_CLUSTER_PORT".split(" "),
      ..."SQS_PORT SQS_QUEUE_PORT SQS_QUEUE_SERVICE_HOST CONSUMER_PORT CONSUMER_WORKERS_PORT".split(" "),
    ];
    const others = "HOME HOSTNAME PATH PWD TZ LANG XDG_DATA_DIRS AWS_ENDPOINT_URL_S3 NODE_OPTIONS OPENAI_API_KEY".split(
      " ",
    );
    const env = Object.fromEntries([...kubernetes, ...others].map((name) => [name, "x"]));
    expect(readConfig({ ...env, API_KEY: "key", API_KEYS: "x" }).warnings).toEqual([]);
  });

  test.each([
    ["prod", ["NODE_ENV=prod has no effect: did you mean production?"]],
    ["Production", ["NODE_ENV=Production has no effect: did you mean production?"]],
    ["test", []],
    ["development", []],
    ["", []],
  ])("warns of NODE_ENV=%s: %j", (NODE_ENV, warnings) => {
    expect(readConfig({ NODE_ENV }).warnings).toEqual(warnings);
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

test("docs/configuration.md has every variable that is read, and no others", async () => {
  const page = await Bun.file(join(import.meta.dir, "../docs/configuration.md")).text();
  const rows = page.split("## Read by the runtime")[0]?.matchAll(/^\| (`[^|]+`) \|/gm) ?? [];
  const documented = [...rows].flatMap(([, names = ""]) => [...names.matchAll(/`(\w+)`/g)].map(([, name]) => name));
  const read = new Set<string>();
  const env = { ...COLLECTOR, OTEL_TRACES_SAMPLER: "traceidratio", SQS_QUEUE_NAME: "orders" };
  function get(target: typeof env, name: string) {
    read.add(name);
    return target[name as keyof typeof env];
  }
  readConfig(new Proxy(env, { get }));
  expect(documented.sort()).toEqual([...read].sort());
});
