import type { RedisCluster } from "../support/redis-cluster.ts";
import { type RedisServer, sendCommand } from "../support/redis-server.ts";
import { waitFor } from "../support/wait-for.ts";
import type { Random } from "./random.ts";

/** Makes a store refuse orders from `begin` to `end`. */
export interface StoreFault<Needs = { redis: RedisServer }> {
  begin(needs: Needs): Promise<unknown>;
  end(needs: Needs): Promise<unknown>;
}

export const REDIS_FAULTS = {
  full: {
    begin: ({ redis }) => redis.command("CONFIG", "SET", "maxmemory", "1"),
    end: ({ redis }) => redis.command("CONFIG", "SET", "maxmemory", "0"),
  },
  read_only: {
    // A replica of a master that is not there keeps its data and replies READONLY.
    begin: ({ redis }) => redis.command("REPLICAOF", "127.0.0.1", "1"),
    end: ({ redis }) => redis.command("REPLICAOF", "NO", "ONE"),
  },
  hung: {
    begin: async ({ redis }) => process.kill(redis.pid(), "SIGSTOP"),
    end: async ({ redis }) => process.kill(redis.pid(), "SIGCONT"),
  },
  gone: {
    begin: ({ redis }) => redis.kill(),
    end: ({ redis }) => redis.start(),
  },
} satisfies Record<string, StoreFault>;

/**
 * Makes the store fail for some time. Where orders must be counted before everything is as it was, it resolves before that,
 * with a function that restores the rest.
 */
export type StoreOutage = (durationMs: number) => Promise<(() => Promise<void>) | void>;

export function redisOutages(redis: RedisServer): Record<string, StoreOutage> {
  const lasting =
    ({ begin, end }: StoreFault): StoreOutage =>
    async (durationMs) => {
      await begin({ redis });
      await Bun.sleep(durationMs);
      await end({ redis });
    };
  return {
    redis_killed: lasting(REDIS_FAULTS.gone),
    // Some of them longer than the store waits for a reply.
    redis_hung: (durationMs) => lasting(REDIS_FAULTS.hung)(durationMs * 3),
    redis_full: lasting(REDIS_FAULTS.full),
    redis_read_only: lasting(REDIS_FAULTS.read_only),
    redis_forgets_scripts: async () => void (await redis.command("SCRIPT", "FLUSH")),
    redis_slow: async (durationMs) => {
      await redis.command("CLIENT", "PAUSE", `${durationMs}`, "ALL");
      await Bun.sleep(durationMs);
    },
  };
}

export function clusterOutages(cluster: RedisCluster, random: Random): Record<string, StoreOutage> {
  const slot = async () => Number(await sendCommand(cluster.ports[0] ?? 0, "CLUSTER", "KEYSLOT", "{orders}"));
  const masterWithOrders = async () => await cluster.masterOf(await slot());
  /** Mostly the one that has the orders: an outage of another one should change nothing. */
  const randomMaster = async () =>
    random.fraction() < 0.5 ? masterWithOrders() : random.pick(await cluster.masters());
  const untilWhole = () => waitFor("a whole cluster", cluster.isWhole, 60_000);
  return {
    // Its replica takes over, and it comes back as that one's replica.
    master_killed: async () => {
      const { port } = await randomMaster();
      await cluster.kill(port);
      return async () => {
        await cluster.start(port);
        await untilWhole();
      };
    },
    // It does not know that its replica has taken over, and still has earlier requests to execute.
    master_lost_and_back: async () => {
      const pid = cluster.pid((await randomMaster()).port);
      process.kill(pid, "SIGSTOP");
      return async () => {
        process.kill(pid, "SIGCONT");
        await untilWhole();
      };
    },
    slots_moved: async () => {
      const source = await masterWithOrders();
      const others = (await cluster.masters()).filter(({ id }) => id !== source.id);
      await cluster.moveSlot(await slot(), random.pick(others));
    },
    scripts_forgotten: async () => {
      for (const { port } of await cluster.masters()) await sendCommand(port, "SCRIPT", "FLUSH");
    },
  };
}
