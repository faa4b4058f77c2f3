/**
 * @returns all keys in Redis for a prefix. record.lua builds the same names from the same prefix.
 *
 * | key | type | content |
 * | --- | --- | --- |
 * | `global:stats` | hash | `total_orders`, `total_revenue` in decimal; public |
 * | `user:{id}` | hash | `order_count`, `total_spend` in decimal; public |
 * | `orders:store` | hash | `generations` of markers, `window_seconds`, `time_zone` of the days, `seen_at` (last batch, to the hour), and `closed` during and after a copy to another store |
 * | `orders:ids:{generation}:{hash}` | hash | markers: 12 bytes of an order id's SHA-256 -> "" |
 * | `orders:days` | hash | `d:YYYY-MM-DD` -> "orders cents" |
 * | `orders:users` | list | every user id once |
 * | `orders:board:{leaderboard}` | hash | user id -> "orders cents" |
 * | `orders:top:{leaderboard}` | sorted set | the first MAX_TOP users of a larger leaderboard, by negative cents |
 * | `orders:recent:{outcome}` | list | recent orders as JSON, newest first; written by `addRecent` |
 * | `orders:history:{outcome}` | hash | order history: order id -> number of messages, then the latest as JSON, a line each |
 * | `orders:history-times:{outcome}` | sorted set | order id -> when its latest message was processed, ms; written by history.lua |
 * | `orders:check` | string | empty, expires after a minute; written by `check` |
 *
 * Markers have no expiry, because a `volatile-*` eviction policy evicts keys with an expiry first.
 */
export const redisKeys = (prefix: string) => ({
  prefix,
  global: `${prefix}global:stats`,
  user: (userId: string) => `${prefix}user:${userId}`,
  store: `${prefix}orders:store`,
  markers: (generation: number, hash: number) => `${prefix}orders:ids:${generation}:${hash}`,
  days: `${prefix}orders:days`,
  users: `${prefix}orders:users`,
  board: (leaderboard: string) => `${prefix}orders:board:${leaderboard}`,
  top: (leaderboard: string) => `${prefix}orders:top:${leaderboard}`,
  recent: (outcome: string) => `${prefix}orders:recent:${outcome}`,
  history: (outcome: string) => `${prefix}orders:history:${outcome}`,
  historyTimes: (outcome: string) => `${prefix}orders:history-times:${outcome}`,
  check: `${prefix}orders:check`,
});

export type RedisKeys = ReturnType<typeof redisKeys>;

/**
 * Parses the field `generations` of `orders:store`: for each generation its number, its number of hashes, the orders counted
 * before it, when it was opened (seconds), and how many hashes are not deleted yet.
 *
 * @returns the generations, oldest first
 */
export function parseGenerations(text: string | null | undefined) {
  return Array.from((text ?? "").matchAll(/(\d+) (\d+) \d+ \d+ \d+/g), ([, number, hashes]) => ({
    number: Number(number),
    hashes: Number(hashes),
  }));
}

/** @returns the number of the hash that contains a marker, in a generation of `hashes` hashes; key_of_new in record.lua */
export function hashOf(marker: Uint8Array, hashes: number): number {
  const [high = 0, middle = 0, low = 0] = marker;
  return ((high << 16) | (middle << 8) | low) % hashes;
}
