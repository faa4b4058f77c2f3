import type { RedisAddress } from "./redis-connection.ts";
import type { FullStore } from "./store.ts";

/** The address and settings of the store. Plain data, so that it can be passed to a Bun worker. */
export type StoreAddress = ({ kind: "sqlite"; path: string } | ({ kind: "redis" | "cluster" } & RedisAddress)) & {
  /** How long an order id must be remembered, seconds. Default: `LONGEST_WINDOW_SECONDS`. */
  windowSeconds?: number;
  /**
   * IANA name of the time zone whose days are counted. An empty store is begun with it, and a store that was begun with another
   * does not open. Absent: the store opens, and counts orders only if its days are those of `DEFAULT_TIME_ZONE`.
   */
  timeZone?: string;
};

/**
 * Opens the store for one thread.
 *
 * @throws an Error whose message an operator can act on if the store cannot be reached
 */
export async function openStore({ windowSeconds, timeZone, ...address }: StoreAddress): Promise<FullStore> {
  // Load only the implementation that is used: ioredis alone takes a tenth of the startup time.
  if (address.kind === "sqlite")
    return (await import("./sqlite.ts")).openSqliteStore(address.path, windowSeconds, timeZone);
  return await (await import("./redis.ts")).openRedisStore(address, windowSeconds, timeZone);
}
