import { availableParallelism } from "node:os";
import { join } from "node:path";
import type { StoreAddress } from "./store/open.ts";

/** Everything the program can be told. Made once by `readConfig`; nothing else reads the environment. */
export interface Config {
  /** `api` off: probes and metrics are answered, nothing else. */
  http: { host: string; port: number; api: "on" | "off"; apiKey?: string; requestsPerMinute?: number };
  queue: QueueConfig;
  store: StoreAddress;
  consumer: { workers: number; concurrency: number; onValueMismatch: "correct" | "reject" };
  log: { level: LogLevel; pretty: boolean };
  /** Absent: no spans. Where to send them, the exporter reads in its own OTEL_EXPORTER_OTLP_* variables. */
  tracing?: { sampleRatio: number };
}

export type QueueConfig = (
  | { kind: "embedded"; name: string; port: number; dir: string }
  /** `url` names an existing queue, never created or changed; otherwise `name` is looked up and created. */
  | { kind: "sqs"; name: string; url?: string; endpoint?: string }
) & { client: "fetch" | "sdk" };

const LOG_LEVELS = ["trace", "debug", "info", "warn", "error", "fatal", "silent"] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

/** The environment holds values the program cannot start with; `problems` lists every one of them. */
export class ConfigError extends Error {
  constructor(readonly problems: string[]) {
    super(`Cannot start: ${problems.join("; ")}`);
  }
}

type Environment = Record<string, string | undefined>;

/** Reads the configuration from environment variables (README, "Configuration"). Throws a `ConfigError`. */
export function readConfig(env: Environment): Config {
  const problems: string[] = [];
  const read = reader(env, problems);
  const dir = read.text("DATA_DIR") ?? ".data";
  const apiKey = read.text("API_KEY");
  const requestsPerMinute = read.integer("RATE_LIMIT", 0, 0, 1_000_000);
  const tracing = readTracing(read, problems);
  const store = readStore(read, dir, problems);
  const config: Config = {
    http: {
      host: read.text("HOST") ?? "127.0.0.1",
      port: read.integer("PORT", 8000, 0, 65_535),
      api: read.oneOf("API", ["on", "off"], "on"),
      ...(apiKey && { apiKey }),
      ...(requestsPerMinute > 0 && { requestsPerMinute }),
    },
    queue: readQueue(read, dir),
    store,
    consumer: {
      // More than four workers per process gain nothing: Redis or the queue is the limit by then.
      workers: read.integer("CONSUMER_WORKERS", Math.min(availableParallelism(), 4), 0, 64),
      // Measured: 4 and 8 leave the CPU idle between answers, 32 gains nothing over 16 and holds twice the messages.
      // A cluster has a script in every shard for each batch, which cost half with four times as many orders in them.
      concurrency: read.integer("CONSUMER_CONCURRENCY", store.kind === "cluster" ? 64 : 16, 1, 64),
      onValueMismatch: read.oneOf("ON_VALUE_MISMATCH", ["correct", "reject"], "correct"),
    },
    log: { level: read.oneOf("LOG_LEVEL", LOG_LEVELS, "info"), pretty: process.stdout.isTTY === true },
    ...(tracing && { tracing }),
  };
  if (config.consumer.workers === 0 && config.http.api === "off") {
    problems.push("CONSUMER_WORKERS=0 and API=off leave nothing to do: set one of the two");
  }
  if (read.text("NODE_ENV") === "production") refuseEmbedded(config, problems);
  if (problems.length > 0) throw new ConfigError(problems);
  return config;
}

function readQueue(read: Reader, dir: string): QueueConfig {
  const url = read.url("SQS_QUEUE_URL", ["http:", "https:"]);
  // AWS takes 80 characters, the `.fifo` of a FIFO queue among them, and the dead-letter queue's name is four longer.
  const named = read.pattern(
    "SQS_QUEUE_NAME",
    /^(?=.{1,76}$)[\w-]+(\.fifo)?$/,
    "a queue name of letters, digits, - and _, with .fifo behind them or not, of at most 76 characters",
  );
  const endpoint =
    read.url("AWS_ENDPOINT_URL_SQS", ["http:", "https:"]) ?? read.url("AWS_ENDPOINT_URL", ["http:", "https:"]);
  const port = read.integer("EMBEDDED_QUEUE_PORT", 4566, 0, 65_535);
  const name = named ?? "orders-queue";
  const client = read.oneOf("SQS_CLIENT", ["fetch", "sdk"], "fetch");
  if (!url && !named && !endpoint) return { kind: "embedded", client, name, port, dir: join(dir, "queue") };
  return { kind: "sqs", client, name, ...(url && { url }), ...(endpoint && { endpoint }) };
}

function readStore(read: Reader, dir: string, problems: string[]): StoreAddress {
  const url = read.url("REDIS_URL", ["redis:", "rediss:"]);
  const nodes = read.text("REDIS_CLUSTER_NODES");
  const waitReplicas = read.integer("REDIS_WAIT_REPLICAS", 0, 0, 5);
  // Each is a script of its own in every batch: a few more than there will ever be masters.
  const shards = read.integer("REDIS_SHARDS", 16, 2, 256);
  if (!nodes) return url ? { kind: "redis", url, waitReplicas } : { kind: "sqlite", path: join(dir, "orders.db") };
  // The value may hold a password.
  if (!areNodes(nodes)) problems.push("REDIS_CLUSTER_NODES must be host:port, with commas between several");
  if (url) problems.push("REDIS_URL and REDIS_CLUSTER_NODES are both set: name one of them");
  return { kind: "cluster", shards, waitReplicas, ...(areNodes(nodes) ? readNodes(nodes) : { nodes: [] }) };
}

const NODE = String.raw`(rediss?:\/\/([^\s,@/]*@)?)?[\w.-]+:\d+`;
const NODES = new RegExp(String.raw`^${NODE}(\s*,\s*${NODE})*$`);

const asUrl = (node: string) => (node.includes("//") ? node : `redis://${node}`);
/** A port may be too large for a URL. */
const areNodes = (text: string) => NODES.test(text) && text.split(/\s*,\s*/).every((node) => URL.canParse(asUrl(node)));

/** One of the nodes may be a URL, with what all are reached by: `rediss://user:password@host:port`. */
function readNodes(text: string) {
  const urls = text.split(/\s*,\s*/).map((node) => new URL(asUrl(node)));
  const { username, password } = urls.find((url) => url.password) ?? {};
  return {
    nodes: urls.map(({ host }) => host),
    ...(username && { username: decodeURIComponent(username) }),
    ...(password && { password: decodeURIComponent(password) }),
    ...(urls.some(({ protocol }) => protocol === "rediss:") && { tls: true }),
  };
}

const SAMPLERS = ["always_on", "always_off", "traceidratio"] as const;

/**
 * OpenTelemetry's own variables. Off, and the others not looked at, where they say so: the endpoint may be there for
 * metrics. Each batch begins a trace, so that `parentbased_` makes no difference.
 */
function readTracing(read: Reader, problems: string[]): Config["tracing"] {
  if (read.text("OTEL_SDK_DISABLED")?.toLowerCase() === "true" || read.text("OTEL_TRACES_EXPORTER") === "none") return;
  const variables = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
  if (!variables.some((name) => read.url(name, ["http:", "https:"]))) return;
  const samplers = SAMPLERS.flatMap((name) => [name, `parentbased_${name}` as const]);
  const sampler = read.oneOf("OTEL_TRACES_SAMPLER", samplers, "parentbased_always_on").replace("parentbased_", "");
  if (sampler !== "traceidratio") return { sampleRatio: sampler === "always_on" ? 1 : 0 };
  const sampleRatio = Number(read.text("OTEL_TRACES_SAMPLER_ARG") ?? 1);
  if (!(sampleRatio >= 0 && sampleRatio <= 1)) problems.push("OTEL_TRACES_SAMPLER_ARG must be a number from 0 to 1");
  return { sampleRatio };
}

/** The embedded halves keep orders on one machine's disk: a production that falls back to them has lost a setting. */
function refuseEmbedded(config: Config, problems: string[]) {
  if (config.queue.kind === "embedded") {
    problems.push("NODE_ENV=production needs a queue: set SQS_QUEUE_URL or SQS_QUEUE_NAME");
  }
  if (config.store.kind === "sqlite")
    problems.push("NODE_ENV=production needs a store: set REDIS_URL or REDIS_CLUSTER_NODES");
}

type Reader = ReturnType<typeof reader>;

/** Typed look-ups in the environment. An empty value is an unset one, as in compose files and shells. */
function reader(env: Environment, problems: string[]) {
  const text = (name: string) => env[name]?.trim() || undefined;

  function pattern(name: string, expected: RegExp, description: string): string | undefined {
    const value = text(name);
    if (value === undefined || expected.test(value)) return value;
    problems.push(`${name} must be ${description}: got "${value}"`);
  }

  function integer(name: string, fallback: number, min: number, max: number): number {
    const value = text(name);
    if (value === undefined) return fallback;
    const number = Number(value);
    if (/^\d+$/.test(value) && number >= min && number <= max) return number;
    problems.push(`${name} must be an integer from ${min} to ${max}: got "${value}"`);
    return fallback;
  }

  function oneOf<const T extends string>(name: string, words: readonly T[], fallback: T): T {
    const value = text(name);
    if (value === undefined) return fallback;
    const word = words.find((candidate) => candidate === value);
    if (word === undefined) problems.push(`${name} must be one of ${words.join(", ")}: got "${value}"`);
    return word ?? fallback;
  }

  function url(name: string, protocols: string[]): string | undefined {
    const value = text(name);
    if (value === undefined) return undefined;
    if (URL.canParse(value) && protocols.includes(new URL(value).protocol) && new URL(value).host) return value;
    // The value may hold a password: only its form is named.
    problems.push(`${name} must be a URL that begins with ${protocols.map((p) => `${p}//`).join(" or ")}`);
  }

  return { text, pattern, integer, oneOf, url };
}
