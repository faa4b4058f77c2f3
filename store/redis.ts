import { Redis, type Result } from "ioredis";
import { boardsOf } from "./periods.ts";
import { toLines, toRecent } from "./recent.ts";
import recordScript from "./record.lua" with { type: "text" };
import { adviseOn } from "./redis-advice.ts";
import {
  bySpend,
  MARKER_WINDOW_SECONDS,
  MAX_RECENT,
  MAX_TOP,
  MAX_TOTAL_CENTS,
  type Order,
  type RecentOrder,
  type Recorded,
  type Totals,
  type UserTotals,
  type WholeStore,
} from "./store.ts";
import topScript from "./top.lua" with { type: "text" };

/** A healthy Redis answers in milliseconds; a command without an answer for five seconds meets a hung server. */
const COMMAND_TIMEOUT_MS = 5_000;
/** Counting should resume within two seconds of an outage's end, so the pauses between connects stay below one. */
const MAX_RECONNECT_PAUSE_MS = 500;
const GLOBAL_KEY = "global:stats";
/** The store's own keys share a prefix of their own: a shop's Redis holds other things too. */
const DAYS_KEY = "orders:days";
const SEEN_KEY = "orders:seen";
const userKey = (userId: string) => `user:${userId}`;
const boardKey = (board: string) => `orders:board:${board}`;
const topKey = (board: string) => `orders:top:${board}`;
const recentKey = (outcome: string) => `orders:recent:${outcome}`;
const listingKey = (id: string) => `orders:listing:${id}`;
/** ARGV[1] to [4] of the script. */
const LIMITS = ["", MARKER_WINDOW_SECONDS, MAX_TOTAL_CENTS, MAX_TOP] as const;
/** Users that an audit reads at a time: a millisecond of Redis, so that orders do not wait longer for it. */
const PAGE = 1_000;

declare module "ioredis" {
  interface RedisCommander<Context> {
    recordOrders(global: string, ...args: (string | number)[]): Result<string, Context>;
    topUsers(board: string, top: string, n: number, unranked: number): Result<[number, string[]], Context>;
  }
}

/**
 * The store on a single Redis: `user:{user_id}` and `global:stats` for others to read, the rest its own.
 * Rejects with one sentence when Redis cannot be reached now; later outages reject the calls made meanwhile,
 * at once, and end by themselves.
 */
export async function openRedisStore({ url }: { url: string }): Promise<WholeStore> {
  const redis = await connect(url);

  async function record(orders: readonly Order[]): Promise<Recorded[]> {
    if (orders.length === 0) return [];
    const days: string[] = [];
    const rows: (string | number)[] = [];
    for (const { id, userId, cents, day } of orders) {
      if (!days.includes(day)) days.push(day);
      rows.push(...digestOf(id), userId, cents, days.indexOf(day) + 1);
    }
    const answer = await redis.recordOrders(
      GLOBAL_KEY,
      ...LIMITS,
      JSON.stringify(days.map(boardsOf)),
      JSON.stringify(rows),
    );
    if (answer.length !== orders.length) throw new Error(`Redis answered ${answer.length} of ${orders.length} orders`);
    return Array.from(answer, toRecorded);
  }

  const global = async () => toTotals(await redis.hmget(GLOBAL_KEY, "total_orders", "total_revenue"));

  const user = async (userId: string) => toTotals(await redis.hmget(userKey(userId), "order_count", "total_spend"));

  async function top(board: string, n: number): Promise<UserTotals[]> {
    const [ranked, rows] = await redis.topUsers(boardKey(board), topKey(board), n, MAX_TOP);
    const users = Array.from({ length: rows.length / 2 }, (_, index) => ({
      userId: rows[index * 2] ?? "",
      ...toSums(rows[index * 2 + 1]),
    }));
    return ranked ? users : users.sort(bySpend).slice(0, n);
  }

  async function daily(days: readonly string[]): Promise<Totals[]> {
    if (days.length === 0) return [];
    return (await redis.hmget(DAYS_KEY, ...days.map((day) => `d:${day}`))).map(toSums);
  }

  async function knows(orderId: string): Promise<boolean> {
    const [layers, [now]] = await Promise.all([redis.get(SEEN_KEY), redis.time()]);
    const [low, high, chosen] = digestOf(orderId);
    const found = layersOf(layers ?? "", Number(now)).map(({ number, sets }) =>
      redis.smismember(`${SEEN_KEY}:${number}:${chosen % sets}`, low, high),
    );
    return (await Promise.all(found)).some((halves) => halves.every((half) => half === 1));
  }

  async function remember(orders: readonly RecentOrder[]) {
    const written = toLines(orders).flatMap(([outcome, lines]) => [
      redis.lpush(recentKey(outcome), ...lines),
      redis.ltrim(recentKey(outcome), 0, MAX_RECENT - 1),
    ]);
    await Promise.all<unknown>(written);
  }

  const recent = async (outcome: RecentOrder["outcome"], n: number) =>
    toRecent(outcome, await redis.lrange(recentKey(outcome), 0, MAX_RECENT - 1)).slice(0, n);

  // The record script without orders writes one key: a replica, a full memory, a failed disk and a user without
  // the right to run scripts all answer PING.
  async function check() {
    try {
      await redis.recordOrders(GLOBAL_KEY, ...LIMITS, "[]", "[]");
    } catch (error) {
      throw new Error(`Redis takes no orders: ${reasonOf(error)}`, { cause: error });
    }
  }

  const advice = () => adviseOn(redis);

  const close = async () => redis.disconnect();

  const days = async () => (await redis.hkeys(DAYS_KEY)).map((field) => field.slice("d:".length));

  async function boards(): Promise<string[]> {
    const boards = new Set<string>();
    for (const keyOf of [boardKey, topKey]) {
      for await (const names of namesLike(keyOf)) for (const name of names) boards.add(name);
    }
    return [...boards];
  }

  async function* userIds(board?: string) {
    if (board === undefined) return yield* namesLike(userKey);
    const known = new Set<string>();
    const pages: AsyncIterable<string[]> = redis.hscanStream(boardKey(board), { count: PAGE });
    for await (const fields of pages) {
      // A scan may come by a user twice. Every other field is a value.
      const page = fields.filter((userId, index) => index % 2 === 0 && !known.has(userId));
      for (const userId of page) known.add(userId);
      yield [...new Set(page)];
    }
  }

  async function places(board: string, userIds: readonly string[]): Promise<Totals[]> {
    if (userIds.length === 0) return [];
    return (await redis.hmget(boardKey(board), ...userIds)).map(toSums);
  }

  // Part by part, so that orders do not wait for a large one; each with its end, so that none outlives a crash here.
  async function keepListing(id: string, parts: readonly string[], seconds: number) {
    const key = listingKey(id);
    for (const [index, part] of parts.entries()) {
      const answers = await redis.multi().hset(key, index, part).expire(key, seconds).exec();
      for (const [error] of answers ?? []) if (error) throw error;
    }
  }

  const listingPart = async (id: string, index: number) => (await redis.hget(listingKey(id), `${index}`)) ?? undefined;

  /** The names that there are keys for: SCAN misses none and may repeat some. */
  async function* namesLike(keyOf: (name: string) => string): AsyncGenerator<string[]> {
    const pages: AsyncIterable<string[]> = redis.scanStream({ match: keyOf("*"), count: PAGE });
    for await (const keys of pages) yield keys.map((key) => key.slice(keyOf("").length));
  }

  const reads = { global, user, top, daily, knows, recent, listingPart, days, boards, userIds, places };
  return { record, remember, keepListing, ...reads, advice, check, close };
}

async function connect(url: string): Promise<Redis> {
  const redis = new Redis(url, {
    lazyConnect: true,
    connectTimeout: COMMAND_TIMEOUT_MS,
    commandTimeout: COMMAND_TIMEOUT_MS,
    // A connection that has died without a word (NAT, failover) is replaced, not only its commands given up.
    socketTimeout: COMMAND_TIMEOUT_MS,
    // While Redis is away a call fails at once: the caller holds its messages, Redis's client should not.
    enableOfflineQueue: false,
    enableAutoPipelining: true,
    // A worker has one script on its way at a time, and nothing to gather for it.
    autoPipeliningIgnoredCommands: ["recordOrders"],
    retryStrategy: (attempt) => Math.min(attempt * 50, MAX_RECONNECT_PAUSE_MS),
    // After a failover the old master answers READONLY for as long as the connection to it lives.
    reconnectOnError: (error) => error.message.startsWith("READONLY"),
  });
  redis.defineCommand("recordOrders", { lua: recordScript, numberOfKeys: 1 });
  redis.defineCommand("topUsers", { lua: topScript, numberOfKeys: 2, readOnly: true });
  let reason: unknown;
  redis.on("error", (error) => {
    reason = error;
  });
  try {
    await redis.connect();
    await redis.ping();
    return redis;
  } catch (error) {
    redis.disconnect();
    throw new Error(`Cannot reach Redis at ${withoutPassword(url)}: ${reasonOf(reason ?? error)}`, {
      cause: error,
    });
  }
}

/** What an operator can act on, where ioredis speaks of its own insides. */
function reasonOf(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error);
  if (/ECONNREFUSED|Failed to connect/.test(message)) return "connection refused. Start it, or check REDIS_URL";
  if (/isn't writeable|Connection is closed|max retries/i.test(message)) return "not connected";
  if (/Command timed out|Socket timeout/.test(message)) return `no answer within ${COMMAND_TIMEOUT_MS / 1000} s`;
  return message;
}

function withoutPassword(url: string): string {
  const shown = new URL(url);
  if (shown.password) shown.password = "…";
  return shown.href;
}

/** Anything but these two words must not let a message be deleted. */
function toRecorded(counted: string): Recorded {
  if (counted === "1") return "recorded";
  if (counted === "0") return "duplicate";
  throw new Error(`Redis answered ${counted} for an order`);
}

const digest = new Uint8Array(32);
const halves = new BigInt64Array(digest.buffer, 0, 2);
const rest = new Uint32Array(digest.buffer, 16, 1);

/** What the marker of an order id is made of: two halves of 128 bits of its SHA-256, and what chooses its set. */
function digestOf(id: string): [string, string, number] {
  Bun.SHA256.hash(id, digest);
  return [`${halves[0]}`, `${halves[1]}`, rest[0] as number];
}

/** The layers of order ids that the record script would look into: one ends when the next begins. */
function layersOf(text: string, nowSeconds: number) {
  const layers = Array.from(text.matchAll(/(\d+) (\d+) \d+ (\d+)/g), ([, number, sets, at]) => ({
    number,
    sets: Number(sets),
    at: Number(at),
  }));
  const first = layers.findLastIndex(({ at }) => at + MARKER_WINDOW_SECONDS <= nowSeconds);
  return layers.slice(Math.max(first, 0));
}

/** "orders cents", as the store's own hashes hold them. */
function toSums(text: string | null | undefined): Totals {
  const [orders, cents] = (text ?? "0 0").split(" ");
  return { orders: Number(orders), cents: Number(cents) };
}

/** Count and decimal text, as the two hashes hold them; both absent for a key that is not there. */
function toTotals([orders, amount]: (string | null)[]): Totals {
  // Digit by digit: a product with 100 would round amounts near the limit.
  const [whole, fraction = ""] = (amount ?? "0").split(".");
  return { orders: Number(orders ?? 0), cents: Number(whole) * 100 + Number(fraction.padEnd(2, "0")) };
}
