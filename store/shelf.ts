import { toLines, toRecent } from "./recent.ts";
import type { Connection } from "./shard.ts";
import { MAX_RECENT, type RecentOrder, type WholeStore } from "./store.ts";

const recentKey = (outcome: string) => `orders:recent:${outcome}`;
const listingKey = (id: string) => `orders:listing:${id}`;

/** What Redis keeps besides the numbers, each under a key of its own, wherever in a cluster that lies. */
export function createShelf(redis: Connection) {
  async function remember(orders: readonly RecentOrder[]) {
    const written = toLines(orders).flatMap(([outcome, lines]) => [
      redis.lpush(recentKey(outcome), ...lines),
      redis.ltrim(recentKey(outcome), 0, MAX_RECENT - 1),
    ]);
    await Promise.all<unknown>(written);
  }

  const recent = async (outcome: RecentOrder["outcome"], n: number) =>
    toRecent(outcome, await redis.lrange(recentKey(outcome), 0, MAX_RECENT - 1)).slice(0, n);

  // Part by part, so that orders do not wait for a large one; each with its end, so that none outlives a crash here.
  async function keepListing(id: string, parts: readonly string[], seconds: number) {
    const key = listingKey(id);
    for (const [index, part] of parts.entries()) {
      const answers = await redis.multi().hset(key, index, part).expire(key, seconds).exec();
      for (const [error] of answers ?? []) if (error) throw error;
    }
  }

  const listingPart: WholeStore["listingPart"] = async (id, index) =>
    (await redis.hget(listingKey(id), `${index}`)) ?? undefined;

  return { remember, recent, keepListing, listingPart };
}
