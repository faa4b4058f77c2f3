import type { ClusterAddress } from "./cluster.ts";
import type { WholeStore } from "./store.ts";

/** What a thread needs to open the store; plain data, so that it can be handed to a Bun worker. */
export type StoreAddress =
  | { kind: "sqlite"; path: string }
  | { kind: "redis"; url: string; waitReplicas?: number }
  | ({ kind: "cluster" } & ClusterAddress);

/** Opens the store for one thread. Rejects with one sentence when it cannot be reached. */
export async function openStore(address: StoreAddress): Promise<WholeStore> {
  // Only the one that is used is loaded: ioredis alone is a tenth of the start.
  if (address.kind === "redis") return await (await import("./redis.ts")).openRedisStore(address);
  if (address.kind === "cluster") return await (await import("./cluster.ts")).openClusterStore(address);
  return (await import("./sqlite.ts")).openSqliteStore(address);
}
