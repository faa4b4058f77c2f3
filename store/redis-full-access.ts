import { type Connection, mastersOf } from "./redis-connection.ts";
import { parseGenerations, type RedisKeys } from "./redis-keys.ts";
import { allOf, checkType, decimalOf, hashPages, parseAmounts, parseUserTotals } from "./redis-values.ts";
import { COPIED, type FullStore, PAGE_SIZE, type Store, type Totals, type UserTotals } from "./store.ts";

/** Hashes of markers that are read at a time. */
const HASHES_AT_ONCE = PAGE_SIZE / 10;

/** @returns the functions of `FullStore` that read all data page by page, and those for copies and repairs */
export function createFullAccess(redis: Connection, keys: RedisKeys): Omit<FullStore, keyof Store | "wholeHistory"> {
  const days = async () =>
    (await checkType(keys.days, redis.hkeys(keys.days))).map((field) => field.slice("d:".length));

  async function* users(): AsyncGenerator<UserTotals[]> {
    for (let from = 0; ; from += PAGE_SIZE) {
      const page = redis.usersPage(keys.users, keys.user(""), from, from + PAGE_SIZE - 1);
      const fields = await checkType(keys.users, page);
      if (fields.length === 0) return;
      yield Array.from({ length: fields.length / 3 }, (_, index) => {
        const [userId = "", ...amounts] = fields.slice(3 * index, 3 * index + 3);
        return { userId, ...parseAmounts(amounts) };
      });
    }
  }

  /** Each user once, because leaderboards never shrink. */
  async function* usersOn(leaderboard: string): AsyncGenerator<UserTotals[]> {
    for await (const fields of hashPages(redis, keys.board(leaderboard))) yield parseUserTotals(fields);
  }

  async function leaderboards(): Promise<string[]> {
    const names = new Set<string>();
    for (const start of [keys.board(""), keys.top("")])
      for await (const found of scanKeys(redis, start)) for (const key of found) names.add(key.slice(start.length));
    return [...names];
  }

  async function* storedUserIds(): AsyncGenerator<string[]> {
    const start = keys.user("");
    for await (const found of scanKeys(redis, start)) yield found.map((key) => key.slice(start.length));
  }

  async function* markers(): AsyncGenerator<Uint8Array[]> {
    for (const { number, hashes } of await readGenerations(redis, keys))
      for (let from = 0; from < hashes; from += HASHES_AT_ONCE) {
        const pipeline = redis.pipeline();
        for (let hash = from; hash < Math.min(hashes, from + HASHES_AT_ONCE); hash++)
          pipeline.hkeysBuffer(keys.markers(number, hash));
        yield (await allOf<Buffer[]>(pipeline)).flat();
      }
  }

  async function restoreTotal({ orders, cents }: Totals) {
    // `record` rejects while a field is missing. HSETNX does not overwrite an existing one.
    const revenue = await redis.hsetnx(keys.global, "total_revenue", decimalOf(cents));
    const count = await redis.hsetnx(keys.global, "total_orders", orders);
    return revenue + count > 0;
  }

  async function closeForCopy() {
    const isNew = await redis.hsetnx(keys.store, "closed", COPIED);
    const closed = await redis.hget(keys.store, "closed");
    if (!isNew && closed !== COPIED) throw new Error(`The store is closed: ${closed}`);
  }

  async function reopen() {
    const closed = await redis.hget(keys.store, "closed");
    if (closed !== COPIED) throw new Error(closed ? `The store is closed: ${closed}` : "The store is open");
    await redis.hdel(keys.store, "closed");
  }

  return { days, leaderboards, users, usersOn, storedUserIds, markers, restoreTotal, closeForCopy, reopen };
}

/** @returns the generations of markers, oldest first */
export const readGenerations = async (redis: Connection, keys: RedisKeys) =>
  parseGenerations(await redis.hget(keys.store, "generations"));

/** @returns all keys that begin with `start`, one page at a time. SCAN may return a key more than once */
async function* scanKeys(redis: Connection, start: string): AsyncGenerator<string[]> {
  for (const master of mastersOf(redis)) yield* master.scanStream({ match: `${start}*`, count: PAGE_SIZE });
}
