import type { WholeStore } from "./store.ts";

/** What a thread needs to open the store; plain data, so that it can be handed to a Bun worker. */
export type StoreAddress = ({ kind: "sqlite"; path: string } | { kind: "redis"; url: string }) & {
  /** How long an order id is remembered; `markerTtlSeconds` finds it for a queue. */
  markerTtlSeconds: number;
};

/** Opens the store for one thread. Rejects with one sentence when it cannot be reached. */
export async function openStore(address: StoreAddress): Promise<WholeStore> {
  // Only the one that is used is loaded: ioredis alone is a tenth of the start.
  if (address.kind === "redis") return await (await import("./redis.ts")).openRedisStore(address);
  return (await import("./sqlite.ts")).openSqliteStore(address);
}

/**
 * How long an order id must be remembered so that no copy SQS may still deliver is counted again. A message lives for
 * the retention of the queue or of its dead-letter queue, a redrive starts that once more, and a day is for clocks.
 */
export function markerTtlSeconds(retentionSeconds: number): number {
  return 2 * retentionSeconds + 24 * 3600;
}
