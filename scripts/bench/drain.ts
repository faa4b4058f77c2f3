/** How fast a full queue is drained, and what an order costs. */

import { startEmulator, startProgram, startRedis } from "./fixtures.ts";
import { type Child, cpuMicros, waitFor } from "./processes.ts";
import { compare, type Measurement, type Options, type Table } from "./rounds.ts";
import { generateOrders, type Sqs } from "./sqs.ts";

/** Those that record do the whole work of the program, and need Redis; the loops only receive and delete. */
const COMPETITORS = {
  program: { command: ["index.ts"], records: true },
  "bare SDK loop": { command: ["scripts/bench/competitors/consumers.ts", "sdkLoop"], records: false },
  "bare fetch loop": { command: ["scripts/bench/competitors/consumers.ts", "fetchLoop"], records: false },
  "sqs-consumer": { command: ["scripts/bench/competitors/consumers.ts", "sqsConsumer"], records: true },
};
type Competitor = (typeof COMPETITORS)["program"];

/** @returns a table for each number of orders and of users */
export async function drain({ orders = [50_000], users = [1_000], ...options }: Options): Promise<Table[]> {
  const tables: Table[] = [];
  for (const setting of orders.flatMap((count) => users.map((each) => ({ ...options, orders: count, users: each })))) {
    const title = `Drain of ${setting.orders} orders of ${setting.users} users`;
    const competitors = Object.entries(COMPETITORS).map(([name, competitor]) => {
      return [name, (seed: number) => drainOnce(competitor, { ...setting, seed })];
    });
    const others = Object.keys(COMPETITORS).filter((name) => name !== "program");
    const ratios = others.map((name): [string, string] => ["program", name]);
    tables.push(await compare(title, Object.fromEntries(competitors), options, ratios));
  }
  return tables;
}

type Setting = Omit<Options, "orders" | "users"> & { orders: number; users: number; seed: number };

/** Each drain has its own emulator and Redis, so that none is affected by the one before. */
async function drainOnce({ command, records }: Competitor, setting: Setting): Promise<Measurement> {
  await using emulator = await startEmulator();
  await using redis = records ? await startRedis() : undefined;
  const orders = await emulator.sqs.fill(generateOrders(setting, { mismatch: 2, duplicates: 2 }), setting.orders);
  await using consumer = startProgram(command, { ...setting, emulator, redis });
  const measurement = await observe(emulator.sqs, setting.orders, consumer, redis?.server);
  // A consumer that is fast because it loses orders must not be measured.
  const counted = (await redis?.store.global())?.orders ?? orders;
  if (counted !== orders) throw new Error(`${counted} of ${orders} orders were counted`);
  return measurement;
}

/** Measures between 95 % and 5 % of the queue, without the start and the last long polls, and waits until the queue is empty. */
async function observe(sqs: Sqs, messages: number, consumer: Child, redis: Child | undefined): Promise<Measurement> {
  const sample = async () => ({
    left: await sqs.left(),
    atMs: performance.now(),
    cpu: cpuMicros(consumer),
    redisCpu: redis ? cpuMicros(redis) : 0,
  });
  let first = await sample();
  const last = await waitFor(consumer, async () => {
    const now = await sample();
    if (now.left > messages * 0.95) first = now;
    return now.left < messages * 0.05 && now;
  });
  await waitFor(consumer, async () => (await sqs.left()) === 0);
  const done = first.left - last.left;
  return {
    ordersPerSecond: done / ((last.atMs - first.atMs) / 1000),
    cpuMicrosPerOrder: (last.cpu - first.cpu) / done,
    ...(redis && { redisMicrosPerOrder: (last.redisCpu - first.redisCpu) / done }),
    requestsPerOrder: (await sqs.requests()) / messages,
  };
}
