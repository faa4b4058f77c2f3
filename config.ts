import { availableParallelism } from "node:os";
import { join } from "node:path";
import type { StoreAddress } from "./store/open.ts";
import type { RedisAddress } from "./store/redis-connection.ts";
import { areSimilar } from "./text.ts";

/** The complete configuration, created once by `readConfig`. No other module reads the environment. */
export interface Config {
  http: { host: string; port: number; apiKey?: string; requestsPerMinute?: number };
  queue: QueueConfig;
  store: StoreAddress;
  /** IANA name. The day of an order is its date in this time zone. */
  timeZone: string;
  consumer: {
    workers: number;
    concurrency: number;
    onValueMismatch: "correct" | "reject";
    onImplausibleDate: "count" | "reject";
  };
  log: { level: LogLevel; pretty: boolean };
  /** Absent: tracing is off. The exporter reads its address from the OTEL_EXPORTER_OTLP_* variables itself. */
  tracing?: { sampleRatio: number };
  /** What is probably a mistake in the environment, one sentence each. */
  warnings: string[];
}

export type QueueConfig = (
  | { kind: "embedded"; name: string; port: number; dir: string }
  /** A queue given by `url` must exist and is never changed; one given by `name` is created if it does not exist. */
  | { kind: "sqs"; name: string; url?: string; endpoint?: string }
) & { client: "fetch" | "sdk" };

const LOG_LEVELS = ["trace", "debug", "info", "warn", "error", "fatal", "silent"] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

/** The environment contains invalid values; `problems` has one sentence for each of them. */
export class ConfigError extends Error {
  constructor(readonly problems: string[]) {
    super(`Cannot start: ${problems.join("; ")}`);
  }
}

type Environment = Record<string, string | undefined>;

/**
 * Reads the configuration from environment variables (docs/configuration.md).
 *
 * @throws a `ConfigError` that lists every problem, not only the first one
 */
export function readConfig(env: Environment): Config {
  const problems: string[] = [];
  const read = createReader(env, problems);
  const dir = read.text("DATA_DIR") ?? ".data";
  const apiKey = read.secret("API_KEY", /^\s*[!-~][ -~]*\s*$/)?.trim();
  const requestsPerMinute = read.integer("RATE_LIMIT", 0, 0, 1_000_000);
  const tracing = readTracing(read, problems);
  const config: Config = {
    http: {
      host: (read.text("HOST") ?? "127.0.0.1").replace(/^\[(.*)\]$/, "$1"),
      port: read.integer("PORT", 8000, 0, 65_535),
      ...(apiKey && { apiKey }),
      ...(requestsPerMinute > 0 && { requestsPerMinute }),
    },
    queue: readQueue(read, dir),
    store: readStore(read, dir, problems),
    timeZone: readTimeZone(read, problems),
    consumer: {
      // More than four workers per process are not faster: Redis or the queue is the bottleneck by then.
      workers: read.integer("CONSUMER_WORKERS", Math.min(availableParallelism(), 4), 0, 64),
      // Measured: with 4 or 8 the CPU is idle between responses; 32 is not faster than 16 and keeps twice the messages in flight.
      concurrency: read.integer("CONSUMER_CONCURRENCY", 16, 1, 64),
      onValueMismatch: read.oneOf("ON_VALUE_MISMATCH", ["correct", "reject"], "correct"),
      onImplausibleDate: read.oneOf("ON_IMPLAUSIBLE_DATE", ["count", "reject"], "count"),
    },
    log: { level: read.oneOf("LOG_LEVEL", LOG_LEVELS, "info"), pretty: process.stdout.isTTY === true },
    ...(tracing && { tracing }),
    warnings: [],
  };
  if (read.text("NODE_ENV") === "production") refuseEmbedded(config, problems);
  checkPorts(config, problems);
  checkCredentials(config, read);
  config.warnings.push(...findMisspellings(env, read.names));
  if (problems.length > 0) throw new ConfigError(problems);
  return config;
}

/** The default port of the embedded queue: that of LocalStack and other emulators. */
export const EMBEDDED_QUEUE_PORT = 4566;
const AWS_HOST = /\.(amazonaws\.(com(\.cn)?|eu)|api\.aws)$/;

function readQueue(read: Reader, dir: string): QueueConfig {
  const url = read.queueUrl("SQS_QUEUE_URL");
  // AWS allows 80 characters including `.fifo`, and the name of the dead-letter queue is four characters longer.
  const named = read.pattern(
    "SQS_QUEUE_NAME",
    /^(?=.{1,76}$)[\w-]+(\.fifo)?$/,
    "a queue name of at most 76 letters, digits, - and _, optionally followed by .fifo",
  );
  // For a queue outside of AWS, the SDK would use the host of the URL too, but print a warning of its own.
  const ofQueue = url && !AWS_HOST.test(new URL(url).hostname) ? new URL(url).origin : undefined;
  const endpoint = read.queueUrl("AWS_ENDPOINT_URL_SQS") ?? read.queueUrl("AWS_ENDPOINT_URL") ?? ofQueue;
  const port = read.integer("EMBEDDED_QUEUE_PORT", EMBEDDED_QUEUE_PORT, 0, 65_535);
  const name = named ?? "orders-queue";
  const client = read.oneOf("SQS_CLIENT", ["fetch", "sdk"], "fetch");
  if (!url && !named && !endpoint) return { kind: "embedded", client, name, port, dir: join(dir, "queue") };
  return { kind: "sqs", client, name, ...(url && { url }), ...(endpoint && { endpoint }) };
}

function readStore(read: Reader, dir: string, problems: string[]): StoreAddress {
  const url = read.text("REDIS_URL");
  const nodes = read.text("REDIS_CLUSTER_NODES");
  // The prefix is part of every key, in a cluster as a hash tag: it must contain neither a colon nor a brace. With the prefix
  // `user`, keys would look like the user keys of a store without a prefix.
  const keyPrefix = read.pattern(
    "REDIS_KEY_PREFIX",
    /^(?!user$)[\w.-]{1,64}$/,
    "1 to 64 letters, digits, _, . or -, and not user",
  );
  const shared = { waitReplicas: read.integer("REDIS_WAIT_REPLICAS", 0, 0, 5), ...(keyPrefix && { keyPrefix }) };
  if (url && nodes) problems.push("REDIS_URL and REDIS_CLUSTER_NODES are both set: set only one of them");
  // Messages must not repeat the values, which may contain a password.
  if (nodes) return { kind: "cluster", ...shared, ...readNodes(nodes, problems) };
  if (url) return { kind: "redis", ...shared, ...readRedisUrl(url, problems) };
  if (keyPrefix) problems.push("REDIS_KEY_PREFIX needs REDIS_URL or REDIS_CLUSTER_NODES");
  return { kind: "sqlite", path: join(dir, "orders.db") };
}

const HOST = String.raw`[\w.-]+|\[[\da-fA-F:.]+\]`;
const NODE = String.raw`(?:(rediss?):\/\/(?:([^\s,@/]*)@)?)?(${HOST}):(\d{1,5})`;
const SENTINELS = /^(rediss?)\+sentinel:\/\/(?:([^\s,@/]*)@)?([^\s/@]+)\/([^\s/?#]+)(?:\/(\d+))?$/;

/** Parses `redis://user:password@host:port/database`, `rediss://` for TLS, or `redis+sentinel://host:port,host:port/name`. */
function readRedisUrl(text: string, problems: string[]): RedisAddress {
  const [, scheme, userInfo, hosts = "", name, db = "0"] = SENTINELS.exec(text) ?? [];
  if (scheme) {
    const { nodes: sentinels = [] } = readNodes(hosts, problems, "REDIS_URL after redis+sentinel://");
    const tls = scheme === "rediss" && { tls: true };
    return { sentinels, name: name ?? "", db: Number(db), ...readUserInfo(userInfo, "REDIS_URL", problems), ...tls };
  }
  const url = URL.parse(text);
  if (!url?.host || !["redis:", "rediss:"].includes(url.protocol)) {
    problems.push(
      "REDIS_URL must be redis://host:port, rediss:// for TLS, or redis+sentinel://host:port,host:port/name, with user and password percent-encoded",
    );
    return {};
  }
  readUserInfo(`${url.username}:${url.password}`, "REDIS_URL", problems);
  if (url.search || url.hash)
    problems.push(
      "REDIS_URL must not have parameters after ? or #: set a key prefix with REDIS_KEY_PREFIX, and the password before the host, :password@host",
    );
  if (!/^(\/\d*)?$/.test(url.pathname)) problems.push("REDIS_URL may end with a database number only, such as /1");
  // The normalized URL, not the text: ioredis would connect to an upper-case REDISS:// without TLS.
  return { url: url.href };
}

/**
 * Parses `host:port,host:port`. One of the nodes may be a URL, `rediss://user:password@host:port`, whose scheme, user and password
 * are used for all nodes.
 */
function readNodes(text: string, problems: string[], name = "REDIS_CLUSTER_NODES"): RedisAddress {
  const matches = text.split(/\s*,\s*/).map((node) => new RegExp(`^${NODE}$`).exec(node));
  if (matches.some((match) => !match || Number(match[4]) > 65_535)) {
    problems.push(
      `${name} must be host:port, or several of them separated by commas, IPv6 addresses as [::1]:6379, user and password percent-encoded`,
    );
    return { nodes: [] };
  }
  const userInfo = matches.find((match) => match?.[2])?.[2];
  return {
    nodes: matches.map((match) => ({ host: (match?.[3] ?? "").replace(/^\[|\]$/g, ""), port: Number(match?.[4]) })),
    ...readUserInfo(userInfo, name, problems),
    ...(matches.some((match) => match?.[1] === "rediss") && { tls: true }),
  };
}

/** Parses `user:password`, percent-encoded. */
function readUserInfo(text: string | undefined, name: string, problems: string[]) {
  const [, user = "", secret = ""] = /^([^:]*):?(.*)$/.exec(text ?? "") ?? [];
  try {
    const [username, password] = [decodeURIComponent(user), decodeURIComponent(secret)];
    return { ...(username && { username }), ...(password && { password }) };
  } catch {
    problems.push(`${name}: a % in user or password must be written as %25`);
    return {};
  }
}

/** @returns the IANA name as the runtime writes it; other names of the same zone are kept */
function readTimeZone(read: Reader, problems: string[]): string {
  const name = read.text("TIME_ZONE") ?? "UTC";
  try {
    // A fixed offset is valid for Intl as well.
    if (/^[a-z]/i.test(name)) return new Intl.DateTimeFormat("en", { timeZone: name }).resolvedOptions().timeZone;
  } catch {
    // Not the name of a time zone.
  }
  const end = `/${name.replaceAll(" ", "_")}`.toLowerCase();
  const meant = Intl.supportedValuesOf("timeZone").find((known) => known.toLowerCase().endsWith(end));
  problems.push(`TIME_ZONE must be the IANA name of a time zone such as ${meant ?? "Europe/Berlin"}: got "${name}"`);
  return "UTC";
}

const SAMPLERS = ["always_on", "always_off", "traceidratio"] as const;

/**
 * Reads the standard variables of OpenTelemetry. If they switch traces off, the others are ignored: the endpoint may be set for
 * metrics. Every batch starts a new trace, so a `parentbased_` sampler behaves like the one it wraps.
 */
function readTracing(read: Reader, problems: string[]): Config["tracing"] {
  if (read.text("OTEL_SDK_DISABLED")?.toLowerCase() === "true" || read.text("OTEL_TRACES_EXPORTER") === "none") return;
  const variables = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
  if (!variables.some((name) => read.url(name))) return;
  const samplers = SAMPLERS.flatMap((name) => [name, `parentbased_${name}` as const]);
  const sampler = read.oneOf("OTEL_TRACES_SAMPLER", samplers, "parentbased_always_on").replace("parentbased_", "");
  if (sampler !== "traceidratio") return { sampleRatio: sampler === "always_on" ? 1 : 0 };
  const sampleRatio = Number(read.text("OTEL_TRACES_SAMPLER_ARG") ?? 1);
  if (!(sampleRatio >= 0 && sampleRatio <= 1)) problems.push("OTEL_TRACES_SAMPLER_ARG must be a number from 0 to 1");
  return { sampleRatio };
}

/** The embedded queue and store keep orders on the disk of one machine. In production, using them means that a setting is missing. */
function refuseEmbedded(config: Config, problems: string[]) {
  if (config.queue.kind === "embedded") {
    problems.push("NODE_ENV=production needs a queue: set SQS_QUEUE_URL or SQS_QUEUE_NAME");
  }
  if (config.store.kind === "sqlite")
    problems.push("NODE_ENV=production needs a store: set REDIS_URL or REDIS_CLUSTER_NODES");
}

function checkPorts({ http, queue }: Config, problems: string[]) {
  if (queue.kind === "embedded" && queue.port === http.port && http.port !== 0)
    problems.push(`PORT and EMBEDDED_QUEUE_PORT are both ${http.port}: set one of them to another port`);
}

/** The SDK reads these variables itself. A line break in one of them would be an error about a header or a signature. */
function checkCredentials({ queue }: Config, read: Reader) {
  if (queue.kind === "embedded") return;
  for (const name of ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"]) read.secret(name, /^[!-~]+$/);
}

/** @returns a warning for each variable that has no effect and looks like one of ours that is not set */
function findMisspellings(env: Environment, names: ReadonlySet<string>): string[] {
  const { NODE_ENV = "" } = env;
  const unknown = !["", "production", "development", "test"].includes(NODE_ENV);
  const warnings = unknown ? [`NODE_ENV=${NODE_ENV} has no effect: did you mean production?`] : [];
  // PORT and HOST resemble too many other names, and AWS_ENDPOINT_URL_S3 is not a misspelling.
  const ours = [...names].filter((name) => name.includes("_") && !/^(AWS|OTEL|NODE)_/.test(name) && !env[name]);
  for (const name of Object.keys(env).filter((name) => !names.has(name))) {
    const similar = ours.filter((our) => areSimilar(name, our) || lacksFirstOrLastWord(name, our));
    if (similar.length > 0) warnings.push(`${name} has no effect: did you mean ${similar.join(" or ")}?`);
  }
  return warnings;
}

/** @returns false for a `name` of one word: REDIS or API could mean anything */
const lacksFirstOrLastWord = (name: string, our: string) =>
  name.includes("_") && [our.replace(/_[A-Z]+$/, ""), our.replace(/^[A-Z]+_/, "")].includes(name);

type Reader = ReturnType<typeof createReader>;

/** Reads typed values from the environment. An empty value counts as unset, because compose files pass unset variables as "". */
function createReader(env: Environment, problems: string[]) {
  const names = new Set<string>();

  function text(name: string): string | undefined {
    names.add(name);
    return env[name]?.trim() || undefined;
  }

  /** Reads a value that is sent in HTTP headers and not repeated in messages. The SDK does not trim its own. */
  function secret(name: string, expected: RegExp): string | undefined {
    names.add(name);
    const value = env[name] || undefined;
    if (value === undefined || expected.test(value)) return value;
    problems.push(`${name} must be one line of printable ASCII, and not blank`);
  }

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

  function oneOf<const T extends string>(name: string, allowed: readonly T[], fallback: T): T {
    const value = text(name);
    if (value === undefined) return fallback;
    const found = allowed.find((candidate) => candidate === value);
    if (found === undefined) problems.push(`${name} must be one of ${allowed.join(", ")}: got "${value}"`);
    return found ?? fallback;
  }

  function url(name: string): string | undefined {
    const value = text(name);
    if (value === undefined) return undefined;
    const url = URL.parse(value);
    if (url?.host && ["http:", "https:"].includes(url.protocol)) return value;
    // The message must not repeat the value, which may contain a password.
    problems.push(`${name} must be a valid URL that begins with http:// or https://`);
  }

  /** Reads the URL of a queue or its endpoint. These are logged, and SQS supports no credentials in them. */
  function queueUrl(name: string): string | undefined {
    const value = url(name);
    const { username, password, search, hash } = new URL(value ?? "http://unset");
    if (!username && !password && !search && !hash) return value;
    problems.push(`${name} must not have a user, a password, or parameters after ? or #`);
  }

  return { names, text, secret, pattern, integer, oneOf, url, queueUrl };
}
