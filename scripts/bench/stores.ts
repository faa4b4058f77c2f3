/** How fast `record` alone is: one call after another, as one receive loop calls it. */

import { rmSync } from "node:fs";
import { join } from "node:path";
import { openStore } from "../../store/open.ts";
import type { Store } from "../../store/store.ts";
import { startRedis } from "./fixtures.ts";
import { type Child, cpuMicros, temporaryFolder } from "./processes.ts";
import { type Competitors, compare, type Options, type Table } from "./rounds.ts";
import { generateOrders, take } from "./sqs.ts";

const BATCH_SIZES = [1, 10, 100];
/** The part of the orders that is recorded first, not measured: code and script are compiled, the file is created. */
const WARM_UP = 0.1;

/** @returns the rates of Redis and SQLite for each number of users and each batch size */
export async function stores(options: Options): Promise<Table[]> {
  const competitors: Competitors = {};
  for (const users of options.users ?? [1_000, 100_000]) {
    for (const size of BATCH_SIZES) {
      const setting = { ...options, users, size };
      competitors[`Redis, ${users} users, batches of ${size}`] = (seed) => measure(startRedis, setting, seed);
      competitors[`SQLite, ${users} users, batches of ${size}`] = (seed) => measure(openSqlite, setting, seed);
    }
  }
  return [await compare("record()", competitors, options)];
}

async function openSqlite() {
  const folder = temporaryFolder();
  const store = await openStore({ kind: "sqlite", path: join(folder, "orders.db") });
  async function dispose() {
    await store.close();
    rmSync(folder, { recursive: true });
  }
  return { store, [Symbol.asyncDispose]: dispose };
}

type Setting = Pick<Options, "orders" | "days"> & { users: number; size: number };
/** The CPU time of `server` is measured, if there is one. */
type Start = () => Promise<AsyncDisposable & { store: Store; server?: Child }>;

async function measure(start: Start, { orders = [50_000], days, users, size }: Setting, seed: number) {
  await using fixture = await start();
  const { store, server } = fixture;
  const redisCpu = () => (server ? cpuMicros(server) : 0);
  const messages = generateOrders({ seed, users, days });
  const batches = Array.from({ length: Math.ceil(Math.max(...orders) / size) }, () =>
    take(messages, size).map(({ orderId: id, userId, cents, day }) => ({ id, userId, cents, day })),
  );
  const measured = batches.splice(Math.floor(batches.length * WARM_UP));
  for (const batch of batches) await store.record(batch);
  const [startedMs, cpu, redisStart] = [performance.now(), process.cpuUsage(), redisCpu()];
  for (const batch of measured) await store.record(batch);
  const { user, system } = process.cpuUsage(cpu);
  const count = measured.length * size;
  return {
    ordersPerSecond: count / ((performance.now() - startedMs) / 1000),
    clientMicrosPerOrder: (user + system) / count,
    ...(server && { redisMicrosPerOrder: (redisCpu() - redisStart) / count }),
  };
}
