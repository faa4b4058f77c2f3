/** What `record` alone does: one call after another, as one lane of a worker makes them. */

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openStore } from "../../store/open.ts";
import type { Order, Store } from "../../store/store.ts";
import type { Options } from "../bench.ts";
import { generateOrders, take } from "./orders.ts";
import { type Child, cpuMicros } from "./processes.ts";
import { startCluster, startRedis } from "./rig.ts";
import { compare, type Measurement, type Sides, type Table } from "./rounds.ts";

const BATCH_SIZES = [1, 10, 100];
/** A part of the orders goes first, unmeasured: the code is compiled, the script loaded, the file there. */
const WARM_UP = 0.1;

export async function stores(options: Options): Promise<Table[]> {
  const { days, orders = [50_000], users = [1_000, 100_000] } = options;
  const folder = mkdtempSync(join(tmpdir(), "bench-"));
  process.on("exit", () => rmSync(folder, { recursive: true, force: true }));
  const sides: Sides = {};
  for (const count of users) {
    for (const size of BATCH_SIZES) {
      const batches = (seed: number) => batchesOf({ seed, users: count, days }, Math.max(...orders), size);
      sides[`Redis, ${count} users, batches of ${size}`] = (seed) => onRedis(batches(seed));
      sides[`SQLite, ${count} users, batches of ${size}`] = (seed) => onSqlite(batches(seed), folder);
    }
  }
  return [await compare("record()", sides, options)];
}

/** What it costs to wait for a replica, with as many orders in a batch as a busy worker has. */
export async function replicas(options: Options): Promise<Table[]> {
  const { days, orders = [50_000] } = options;
  const batches = (seed: number) => batchesOf({ seed, users: 1_000, days }, Math.max(...orders), 300);
  async function measure(seed: number, waitReplicas: number) {
    await using redis = await startCluster({ masters: 3, replicas: 1, shards: 16, waitReplicas });
    return await recordAll(redis.store, batches(seed));
  }
  const [waiting, other] = ["REDIS_WAIT_REPLICAS=1", "REDIS_WAIT_REPLICAS=0"];
  const sides = { [other]: (seed: number) => measure(seed, 0), [waiting]: (seed: number) => measure(seed, 1) };
  return [await compare("record() in a cluster of 3 masters and 3 replicas", sides, options, [[waiting, other]])];
}

function batchesOf(setting: Parameters<typeof generateOrders>[0], orders: number, size: number): Order[][] {
  const messages = generateOrders(setting);
  const batch = () =>
    take(messages, size).map(({ orderId, userId, cents, day }) => ({ id: orderId, userId, cents, day }));
  return Array.from({ length: Math.ceil(orders / size) }, batch);
}

async function onRedis(batches: Order[][]): Promise<Measurement> {
  await using redis = await startRedis();
  return await recordAll(redis.store, batches, redis.servers[0]);
}

/** In a file of its own: the folder may hold that of the measurement before. */
async function onSqlite(batches: Order[][], folder: string): Promise<Measurement> {
  rmSync(folder, { recursive: true, force: true });
  const store = await openStore({ kind: "sqlite", path: join(folder, "orders.db") });
  const measurement = await recordAll(store, batches);
  await store.close();
  return measurement;
}

async function recordAll(store: Store, batches: Order[][], redis?: Child): Promise<Measurement> {
  const warmUp = Math.floor(batches.length * WARM_UP);
  for (const batch of batches.slice(0, warmUp)) await store.record(batch);
  const measured = batches.slice(warmUp);
  const orders = measured.flat().length;
  const [startedMs, cpu, redisCpu] = [performance.now(), process.cpuUsage(), redis ? cpuMicros(redis) : 0];
  for (const batch of measured) await store.record(batch);
  const { user, system } = process.cpuUsage(cpu);
  return {
    ordersPerSecond: orders / ((performance.now() - startedMs) / 1000),
    clientMicrosPerOrder: (user + system) / orders,
    ...(redis && { redisMicrosPerOrder: (cpuMicros(redis) - redisCpu) / orders }),
  };
}
