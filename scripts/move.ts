/** `bun scripts/move.ts`: moves the numbers to a Redis Cluster, or to another number of shards in it. */

import { readConfig } from "../config.ts";
import { connectCluster } from "../store/cluster.ts";
import { moveStore } from "../store/move.ts";
import { openStore } from "../store/open.ts";
import { connectRedis } from "../store/redis.ts";
import { type Context, createCommand, grouped, money, type Result, type Values } from "./command.ts";

const OPTIONS = {
  shards: { takes: "integer", min: 2, max: 256, about: "how many there are to be (REDIS_SHARDS)" },
} as const;

const move = createCommand({
  about: `Moves users, days, boards and what remembers order ids to a Redis Cluster, or to another number of shards in one,
while orders arrive. Counting stops for the last part of it; orders wait in the queue meanwhile.`,
  usage: "bun scripts/move.ts [options]",
  options: OPTIONS,
  notes: `With REDIS_URL and REDIS_CLUSTER_NODES it moves from that Redis to that cluster, which must be empty; with
REDIS_CLUSTER_NODES alone, within the cluster. It may be ended at any moment and run again. Processes in a cluster follow
by themselves. Those on a single Redis count nothing any more once it is done: start them with REDIS_CLUSTER_NODES. That
Redis keeps its numbers, closed, until it is thrown away.`,
  exitCodes: { 0: "moved" },
  examples: [
    "REDIS_URL=redis://old:6379 REDIS_CLUSTER_NODES=r1:6379,r2:6379,r3:6379 bun scripts/move.ts",
    "REDIS_CLUSTER_NODES=r1:6379 bun scripts/move.ts --shards 32",
  ],
  run,
});

async function run(options: Values<typeof OPTIONS>, { env, note }: Context): Promise<Result> {
  const to = readConfig({ ...env, NODE_ENV: "", REDIS_URL: "" }).store;
  const single = readConfig({ ...env, NODE_ENV: "", REDIS_CLUSTER_NODES: "" }).store;
  if (to.kind !== "cluster") throw new Error("Name the cluster to move to with REDIS_CLUSTER_NODES");
  if (single.kind !== "redis" && options.shards === undefined)
    throw new Error("Say how many shards there are to be, --shards N; or name the Redis to move from with REDIS_URL");
  const shards = options.shards ?? to.shards;
  const cluster = await connectCluster(to);
  const redis = single.kind === "redis" ? await connectRedis(single.url) : cluster;
  const source = await openStore(single.kind === "redis" ? single : to);
  try {
    const { waitReplicas } = to;
    const say = (line: string) => void note(line);
    const moved = await moveStore({ source, from: redis, to: { cluster, shards }, waitReplicas, say });
    const { orders, cents, boards, pauseSeconds } = moved;
    const next = redis === cluster ? "" : "\nNow start the processes with REDIS_CLUSTER_NODES instead of REDIS_URL";
    const what = `${grouped(orders)} orders, ${money(cents)}`;
    const done =
      pauseSeconds === null
        ? `All has been moved to ${shards} shards already: ${what}`
        : `Moved ${what}, ${grouped(boards)} boards to ${shards} shards; counting stopped for ${pauseSeconds} s`;
    const text = `${done}${next}`;
    return { text, json: { orders, revenue: cents / 100, boards, shards, pauseSeconds } };
  } finally {
    await source.close();
    cluster.disconnect();
    redis.disconnect();
  }
}

process.exit(await move(process.argv.slice(2), Bun.env));
