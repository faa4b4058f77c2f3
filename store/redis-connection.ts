import { Cluster, Redis, type RedisOptions } from "ioredis";
import { messageOf } from "../errors.ts";
import { pluralize } from "../text.ts";
import {
  CLOSED,
  CLUSTER_NODE,
  COMMAND_TIMEOUT_MS,
  describeRedisError,
  NO_RESPONSE,
  NOT_READY,
  WITHOUT_TLS,
} from "./redis-errors.ts";

/** The address of Redis, with one of `url`, `nodes` and `sentinels`. Plain data, so that it can be passed to a Bun worker. */
export interface RedisAddress {
  /** URL of a single Redis, `redis://` or `rediss://`. */
  url?: string;
  /** Some nodes of a cluster. The client discovers the others. */
  nodes?: RedisNode[];
  /** Sentinels that monitor the master called `name`. */
  sentinels?: RedisNode[];
  name?: string;
  db?: number;
  username?: string;
  password?: string;
  tls?: boolean;
  /** Number of replicas that must acknowledge an order before `record` resolves. */
  waitReplicas?: number;
  /** Prefix of all keys. `shop1` becomes `shop1:` on a single Redis, and the hash tag `{shop1}` in a cluster. */
  keyPrefix?: string;
}

export interface RedisNode {
  host: string;
  port: number;
}

export type Connection = Redis | Cluster;

/** Short, because a host that is down may be both a Sentinel and the master: within two seconds the next Sentinel must be tried. */
const SENTINEL_TIMEOUT_MS = 1_000;
/** Counting should resume within two seconds after an outage, so the pauses between reconnects stay well below that. */
const MAX_RECONNECT_PAUSE_MS = 500;
const retryPauseMs = (attempt: number) => Math.min(attempt * 50, MAX_RECONNECT_PAUSE_MS);

const NODE_OPTIONS = {
  connectTimeout: COMMAND_TIMEOUT_MS,
  commandTimeout: COMMAND_TIMEOUT_MS,
  // Replaces a connection that was lost without notice (NAT, failover). A command timeout alone only fails the commands.
  socketTimeout: COMMAND_TIMEOUT_MS,
  // After a failover, the connection is to the old master, now a replica. Redis 6.2 has READONLY in the middle of its error:
  // "ERR Error running script …: -READONLY You can't write against a read only replica". MASTERDOWN is the reply of a replica
  // with `replica-serve-stale-data no` that is not yet connected to the new master.
  reconnectOnError: ({ message }) => /READONLY|MASTERDOWN/.test(message),
} satisfies RedisOptions;

const CLIENT_OPTIONS = {
  lazyConnect: true,
  // While Redis is unavailable, calls must fail at once. Callers keep their messages and retry.
  enableOfflineQueue: false,
  enableAutoPipelining: true,
  // These are batches already, so a pipeline would only delay them.
  autoPipeliningIgnoredCommands: ["recordOrders", "userTotals"],
};

/**
 * Connects to a single Redis, to the master that Sentinels monitor, or to a cluster. Reconnects automatically later.
 *
 * @throws an Error whose message an operator can act on if Redis cannot be reached now
 */
export async function connectRedis(address: RedisAddress): Promise<Connection> {
  const redis = address.nodes ? createCluster(address) : createSingle(address);
  try {
    await connect(redis);
    await checkServer(redis);
    if (redis instanceof Redis) followMaster(redis, address);
    return redis;
  } catch (error) {
    redis.disconnect();
    const reason = await explain(error, address);
    // Not the error itself as cause, because causes are logged: ioredis adds the command to it, and AUTH contains the password.
    throw new Error(`Cannot reach Redis at ${describe(address)}: ${reason}`, { cause: messageOf(error) });
  }
}

/**
 * Resolves when Redis is ready. Rejects with the first error, or after `COMMAND_TIMEOUT_MS`. ioredis itself would retry, and with
 * a database number that does not exist it would use database 0, which may hold the orders of another shop.
 */
async function connect(redis: Connection) {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  // Later errors are ignored here and reported by the calls that fail. The reason of "Failed to refresh slots cache" is in
  // `lastNodeError`.
  redis.on("error", (error: Error & { lastNodeError?: Error }) => reject(error.lastNodeError ?? error));
  redis.once("ready", resolve);
  // ioredis has no deadline for this: connect() to a cluster that is not ready never settles.
  const notReady = redis instanceof Cluster ? NOT_READY : NO_RESPONSE;
  const timer = setTimeout(() => reject(new Error(notReady)), COMMAND_TIMEOUT_MS);
  redis.connect().catch(reject);
  await promise.finally(() => clearTimeout(timer));
}

const credentials = ({ username, password, tls }: RedisAddress) => ({
  ...(username && { username }),
  ...(password && { password }),
  ...(tls && { tls: {} }),
});

function createSingle(address: RedisAddress): Redis {
  const { url, sentinels, name, db = 0, tls, password } = address;
  const options = { ...CLIENT_OPTIONS, ...NODE_OPTIONS, retryStrategy: retryPauseMs };
  if (!sentinels) return new Redis(url ?? "", options);
  return new Redis({
    ...options,
    ...credentials(address),
    sentinels,
    name: name ?? "",
    db,
    connectTimeout: SENTINEL_TIMEOUT_MS,
    sentinelCommandTimeout: SENTINEL_TIMEOUT_MS,
    sentinelRetryStrategy: retryPauseMs,
    ...(password && { sentinelPassword: password }),
    ...(tls && { enableTLSForSentinelMode: true, sentinelTLS: {} }),
  });
}

/** @returns a client of one node of a cluster, or of one Sentinel */
function createNode(node: RedisNode, { nodes, username, password, tls }: RedisAddress): Redis {
  // Sentinels often have the master's password but no users. Those without a password accept any.
  const user = nodes ? { username, password, tls } : { password, tls };
  const retryStrategy = () => SENTINEL_TIMEOUT_MS;
  return new Redis({ ...NODE_OPTIONS, ...credentials(user), ...node, retryStrategy, lazyConnect: true });
}

/**
 * Reconnects as soon as a Sentinel publishes another master. After `SENTINEL FAILOVER`, the old master accepts writes for some
 * ten seconds. They are lost when Sentinel makes it a replica of the new one.
 */
function followMaster(redis: Redis, address: RedisAddress) {
  for (const node of address.sentinels ?? []) {
    const sentinel = createNode(node, address);
    sentinel.on("error", () => {});
    sentinel.on("ready", () => void sentinel.subscribe("+switch-master").catch(() => {}));
    sentinel.on("message", (_, message: string) => {
      // While the client is "connecting", a disconnect would close it permanently.
      const connected = redis.status === "ready" || redis.status === "connect";
      if (connected && message.startsWith(`${address.name} `)) redis.disconnect(true);
    });
    sentinel.connect().catch(() => {});
    redis.once("end", () => sentinel.disconnect());
  }
}

function createCluster({ nodes = [], ...address }: RedisAddress): Cluster {
  return new Cluster(nodes, {
    ...CLIENT_OPTIONS,
    clusterRetryStrategy: retryPauseMs,
    // ioredis does not follow a moved slot in a pipeline with WAIT. Without a refresh it would use the old node for ever.
    slotsRefreshInterval: 1_000,
    redisOptions: { ...NODE_OPTIONS, ...credentials(address) },
    // Do not resolve the announced host names of the nodes: their certificates are issued for these names.
    ...(address.tls && { dnsLookup: (host, done) => done(null, host) }),
  });
}

async function checkServer(redis: Connection) {
  const node = redis instanceof Cluster ? redis.nodes("master")[0] : redis;
  const { username, password } = node?.options ?? {};
  // ioredis sends the password with HELLO, which succeeds on a server without a password. That may be the wrong server, or one
  // that has lost its configuration. AUTH fails on it.
  if (password && (!username || username === "default")) await node?.auth(password);
  if (redis instanceof Cluster) return;
  const mode = /redis_mode:(\w+)/.exec(await redis.info("server").catch(() => ""))?.[1];
  if (mode === "cluster") throw new Error(CLUSTER_NODE);
  if (mode === "sentinel")
    throw new Error("it is a Sentinel. Use redis+sentinel://host:port/name, where name is the name of the master");
  await redis.ping();
}

function describe({ url, nodes, sentinels = [], name }: RedisAddress): string {
  const list = (some: RedisNode[]) =>
    some.map(({ host, port }) => `${host.includes(":") ? `[${host}]` : host}:${port}`).join();
  if (nodes) return list(nodes);
  if (!url) return `${list(sentinels)}/${name}`;
  const shown = new URL(url);
  // Hide the user as well: without a password, it may be a password in the wrong place.
  if (shown.username || shown.password) [shown.username, shown.password] = ["", ""];
  return shown.href;
}

/** @returns like `describeRedisError`, for an error while connecting */
async function explain(error: unknown, address: RedisAddress): Promise<string> {
  const ofSentinel = /All sentinels/.test(messageOf(error));
  const server = ofSentinel ? "Sentinel: " : address.sentinels ? "the master reported by Sentinel: " : "";
  const cause = (await findNodeError(error, ofSentinel ? address.sentinels : address.nodes, address)) ?? error;
  if (messageOf(cause) === "Connection is closed.") return `${server}${CLOSED}`;
  const reason = describeRedisError(cause);
  if (reason !== NO_RESPONSE) return `${server}${reason}`;
  const hint = address.tls || address.url?.startsWith("rediss:") ? WITHOUT_TLS : "";
  return `${server}${reason}. Check the address${hint}`;
}

/**
 * For nodes of a cluster and for Sentinels, ioredis often reports only that the connection is closed or timed out.
 *
 * @returns the first error of a separate connection to each of them; undefined if there is none
 */
async function findNodeError(error: unknown, nodes: RedisNode[] = [], address: RedisAddress): Promise<unknown> {
  if (!/Connection is closed|timeout|timed out/.test(messageOf(error))) return undefined;
  async function connectAlone(node: RedisNode): Promise<unknown> {
    const redis = createNode(node, address);
    const error = await connect(redis).catch((error) => error);
    redis.disconnect();
    return error;
  }
  return (await Promise.all(nodes.map(connectAlone))).find(Boolean);
}

/** @returns a connection to each master */
export const mastersOf = (redis: Connection): Redis[] => (redis instanceof Cluster ? redis.nodes("master") : [redis]);

/** @returns what to change in the configuration of a Redis so that it does not lose data, one sentence each */
export async function redisWarnings(redis: Redis): Promise<string[]> {
  // A managed Redis may not allow INFO or CONFIG: settings that cannot be read are skipped.
  const info = await redis.info().catch(() => "");
  const setting = (name: string) => info.match(new RegExp(`^${name}:(\\S+)`, "m"))?.[1];
  const warnings: string[] = [];
  const policy = setting("maxmemory_policy");
  if (policy && policy !== "noeviction")
    warnings.push(
      `maxmemory-policy is ${policy}: a full Redis deletes stored data instead of rejecting writes. Set noeviction`,
    );
  const evicted = Number(setting("evicted_keys") ?? 0);
  if (evicted > 0)
    warnings.push(
      `Redis has evicted ${pluralize(evicted, "key")} since its start. Check the totals: bun scripts/audit.ts`,
    );
  if (setting("aof_enabled") === "0")
    return [
      ...warnings,
      "appendonly is off: orders counted since the last snapshot are lost if Redis crashes. Set appendonly yes",
    ];
  const [, fsync] = (await redis.config("GET", "appendfsync").catch(() => [])) as string[];
  const lost = { no: "30 seconds", everysec: "second" }[fsync ?? ""];
  if (lost)
    warnings.push(`appendfsync is ${fsync}: a power failure can lose the orders of the last ${lost}. Set always`);
  return warnings;
}
