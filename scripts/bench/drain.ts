/** How fast a full queue is drained, what an order costs, and how much memory that takes. */

import { startEmulator, startProgram, startRedis } from "./fixtures.ts";
import { type Child, cpuMicros, memoryOf, waitFor } from "./processes.ts";
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

/** The first orders of a process, counted as the cold start: code is loaded and compiled, connections are opened. */
const COLD_ORDERS = 20_000;

type Setting = Pick<Options, "days" | "workers" | "concurrency"> & { orders: number; users: number };
type Observe = (sqs: Sqs, setting: Setting, consumer: Child, redis: Child | undefined) => Promise<Measurement>;

/** @returns a table for each number of orders and of users */
export async function drain({ orders = [50_000], users = [1_000], ...options }: Options): Promise<Table[]> {
  const tables: Table[] = [];
  for (const setting of orders.flatMap((count) => users.map((each) => ({ ...options, orders: count, users: each })))) {
    const title = `Drain of ${setting.orders} orders of ${setting.users} users`;
    const competitors = Object.entries(COMPETITORS).map(([name, competitor]) => {
      return [name, (seed: number) => drainOnce(competitor, setting, seed, observeCosts)];
    });
    const others = Object.keys(COMPETITORS).filter((name) => name !== "program");
    const ratios = others.map((name): [string, string] => ["program", name]);
    tables.push(await compare(title, Object.fromEntries(competitors), options, ratios));
  }
  return tables;
}

/** @returns the memory of the program when it has drained a queue. A million messages take 2 GiB in the emulator. */
export async function memory({ orders = [1_000_000], users = [1_000], rounds = 1, workers = 4, ...options }: Options) {
  const setting = { ...options, workers, orders: Math.max(...orders), users: Math.max(...users) };
  const title = `Memory of ${workers} workers after ${setting.orders} orders`;
  const program = (seed: number) => drainOnce(COMPETITORS.program, setting, seed, observeMemory);
  return [await compare(title, { program }, { ...options, rounds })];
}

/** Each drain has its own emulator and Redis, so that none is affected by the one before. */
async function drainOnce({ command, records }: Competitor, setting: Setting, seed: number, observe: Observe) {
  await using emulator = await startEmulator();
  await using redis = records ? await startRedis() : undefined;
  const messages = generateOrders({ ...setting, seed }, { mismatch: 2, duplicates: 2 });
  const orders = await emulator.sqs.fill(messages, setting.orders);
  await using consumer = startProgram(command, { ...setting, emulator, redis });
  const measurement = await observe(emulator.sqs, setting, consumer, redis?.server);
  // A consumer that is fast because it loses orders must not be measured.
  const counted = (await redis?.store.global())?.orders ?? orders;
  if (counted !== orders) throw new Error(`${counted} of ${orders} orders were counted`);
  return measurement;
}

/** Rate and costs are those between 95 % and 5 % of the queue, without the start and the last long polls. */
const observeCosts: Observe = async (sqs, { orders }, consumer, redis) => {
  const startedMs = performance.now();
  const sample = async () => ({
    left: await sqs.left(),
    atMs: performance.now(),
    cpu: cpuMicros(consumer),
    redisCpu: redis ? cpuMicros(redis) : 0,
  });
  const samples: Awaited<ReturnType<typeof sample>>[] = [];
  const empty = await waitFor(consumer, async () => {
    const now = await sample();
    samples.push(now);
    return now.left === 0 && now;
  });
  /** @returns the first sample with fewer messages in the queue */
  const below = (left: number) => samples.find((each) => each.left < left) ?? empty;
  const [cold, begin, end] = [below(orders - COLD_ORDERS), below(orders * 0.95), below(orders * 0.05)];
  const done = begin.left - end.left;
  return {
    ordersPerSecond: done / ((end.atMs - begin.atMs) / 1000),
    cpuMicrosPerOrder: (end.cpu - begin.cpu) / done,
    ...(redis && { redisMicrosPerOrder: (end.redisCpu - begin.redisCpu) / done }),
    requestsPerOrder: (await sqs.requests()) / orders,
    ...(orders > COLD_ORDERS && { coldMicrosPerOrder: cold.cpu / (orders - cold.left) }),
    firstOrderMs: below(orders).atMs - startedMs,
  };
};

const observeMemory: Observe = async (sqs, _, consumer) => {
  await waitFor(consumer, async () => (await sqs.left()) === 0);
  return memoryOf(consumer);
};
