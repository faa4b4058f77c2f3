/** How fast a full queue is drained, and what an order costs. */

import type { Options } from "../bench.ts";
import type { GeneratedMessage } from "../generator.ts";
import { generateOrders } from "./orders.ts";
import { type Child, cpuMicros, spawn, waitFor } from "./processes.ts";
import { type StoreRig, startEmulator, startProgram, startRedis } from "./rig.ts";
import { compare, type Measurement, type Table } from "./rounds.ts";
import type { Sqs } from "./sqs.ts";

/** Two do the whole work of the program, and need Redis; the loops receive and delete, nothing else. */
const SIDES = {
  program: { command: ["index.ts"], records: true },
  "bare SDK loop": { command: ["scripts/bench/sides/consumers.ts", "sdkLoop"], records: false },
  "bare fetch loop": { command: ["scripts/bench/sides/consumers.ts", "fetchLoop"], records: false },
  "sqs-consumer": { command: ["scripts/bench/sides/consumers.ts", "sqsConsumer"], records: true },
};
const RATIOS = Object.keys(SIDES).map((side): [string, string] => ["program", side]);

/** One table for each number of orders and of users. */
export async function drain(options: Options): Promise<Table[]> {
  const tables: Table[] = [];
  for (const orders of options.orders ?? [50_000]) {
    for (const users of options.users ?? [1_000]) {
      const title = `Drain of ${orders} orders of ${users} users`;
      const sides = Object.entries(SIDES).map(([name, { command, records }]) => {
        const measure = (seed: number) => drainOnce(command, records, { ...options, orders, users, seed });
        return [name, measure];
      });
      tables.push(await compare(title, Object.fromEntries(sides), options, RATIOS.slice(1)));
    }
  }
  return tables;
}

type Setting = Omit<Options, "orders" | "users"> & { orders: number; users: number; seed: number; watchers?: number };

/** A fresh emulator and a fresh Redis for every drain: none inherits what another left. */
export async function drainOnce(command: string[], records: boolean, setting: Setting): Promise<Measurement> {
  await using emulator = await startEmulator();
  await using redis = records ? await startRedis() : undefined;
  const { sqs } = emulator;
  const orders = await sqs.fill(generateOrders(setting, { mismatch: 2, duplicates: 2 }), setting.orders);
  await using consumer = startProgram(command, { ...setting, emulator, redis });
  if (setting.watchers) await waitFor(consumer, () => fetch(consumer.url));
  await using _watchers = setting.watchers ? startWatchers(consumer.url, setting.watchers) : undefined;
  return await observe(sqs, { messages: setting.orders, orders }, [consumer], redis);
}

/**
 * Between 95 % and 5 % of the queue, from outside: neither starts nor last long polls count, and all sides are alike.
 * Waits until the queue is empty. Rejects where it held more or fewer orders than were counted.
 */
export async function observe(
  sqs: Sqs,
  sent: { messages: number; orders: number },
  consumers: readonly Child[],
  redis: Pick<StoreRig, "store" | "servers"> | undefined,
  queue?: Child,
): Promise<Measurement> {
  const [consumer] = consumers as [Child];
  const sample = async () => ({
    left: await sqs.left(),
    atMs: performance.now(),
    cpu: cpuOf(consumers),
    redisCpu: cpuOf(redis?.servers ?? []),
    queueCpu: cpuOf(queue ? [queue] : []),
  });
  let first = await sample();
  const last = await waitFor(consumer, async () => {
    const now = await sample();
    if (now.left > sent.messages * 0.95) first = now;
    return now.left < sent.messages * 0.05 && now;
  });
  await waitFor(consumer, async () => (await sqs.left()) === 0);
  // Whoever is fast because it loses orders is not measured.
  const counted = (await redis?.store.global())?.orders ?? sent.orders;
  if (counted !== sent.orders) throw new Error(`${counted} of ${sent.orders} orders were counted`);
  const done = first.left - last.left;
  return {
    ordersPerSecond: done / ((last.atMs - first.atMs) / 1000),
    cpuMicrosPerOrder: (last.cpu - first.cpu) / done,
    ...(redis && { redisMicrosPerOrder: (last.redisCpu - first.redisCpu) / done }),
    ...(queue && { queueMicrosPerOrder: (last.queueCpu - first.queueCpu) / done }),
    requestsPerOrder: (await sqs.requests()) / sent.messages,
  };
}

/** So many wait at most, sent so many at a time: the emulator stays small, and the program has always work. */
const [BACKLOG, PIECE] = [30_000, 5_000];

/**
 * Sends messages piece by piece until so many are sent and settled. Answers how many of them are orders to be counted;
 * `onProgress` hears how many are settled.
 */
export async function drainOf(
  program: Child,
  sqs: Sqs,
  messages: Iterator<GeneratedMessage, never>,
  count: number,
  onProgress: (settled: number) => void,
): Promise<number> {
  let [sent, orders] = [0, 0];
  await waitFor(program, async () => {
    const left = await sqs.left();
    onProgress(sent - left);
    const size = left < BACKLOG ? Math.min(PIECE, count - sent) : 0;
    orders += await sqs.fill(messages, size);
    sent += size;
    return sent === count && left === 0;
  });
  return orders;
}

/** User and system time of several processes, µs. */
export const cpuOf = (processes: readonly Child[]) => processes.reduce((sum, each) => sum + cpuMicros(each), 0);

/** As many pages as `count`, without their browsers: a stream each, and the reads that a page makes every five seconds. */
const startWatchers = (url: string, count: number) =>
  spawn([process.execPath, "scripts/bench/sides/watchers.ts", url, `${count}`], {});
