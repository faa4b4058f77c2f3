/** What the program and its Redis keep in memory, and how soon the first order is counted. */

import { Redis } from "ioredis";
import type { Options } from "../bench.ts";
import { drainOf } from "./drain.ts";
import { generateOrders, recordMany } from "./orders.ts";
import { rssMib, waitFor } from "./processes.ts";
import { startEmulator, startProgram, startRedis } from "./rig.ts";
import { compare, type Measurement, type Table } from "./rounds.ts";

const MARKS = { rssMibAtQuarter: 0.25, rssMibAtHalf: 0.5, rssMibAtThreeQuarters: 0.75, rssMibAtEnd: 1 };
/** Time for a garbage collection after the work. */
const IDLE_MS = 3_000;

export async function memory(options: Options): Promise<Table[]> {
  const orders = Math.max(...(options.orders ?? [1_000_000]));
  // Redis counts its bytes itself, and finds the same ones every time.
  const once = { ...options, rounds: 1 };
  return [
    await compare(`Memory over ${orders} orders`, { program: (seed) => drain(orders, seed, options) }, options),
    await compare(`Memory of ${orders} orders and users`, { Redis: () => bytesInRedis(orders) }, once),
    await compare("Start to first counted order", { program: start }, options),
  ];
}

async function drain(orders: number, seed: number, options: Options): Promise<Measurement> {
  await using emulator = await startEmulator();
  await using redis = await startRedis();
  await using program = startProgram(["index.ts"], { ...options, workers: options.workers ?? 4, emulator, redis });
  const setting = { seed, users: options.users?.[0] ?? 1_000, days: options.days };
  const messages = generateOrders(setting, { mismatch: 2, duplicates: 2 });
  const measurement: Measurement = {};
  await drainOf(program, emulator.sqs, messages, orders, (settled) => {
    for (const [name, part] of Object.entries(MARKS)) {
      if (settled >= orders * part) measurement[name] ??= rssMib(program);
    }
  });
  await Bun.sleep(IDLE_MS);
  return { ...measurement, rssMibIdle: rssMib(program) };
}

/** One user's orders leave but markers; as many users have besides their own key and places on four boards. */
async function bytesInRedis(count: number): Promise<Measurement> {
  const perOrder = await growth(count, () => "U1");
  const perOrderAndUser = await growth(count, (number) => `U${number}`);
  return { bytesPerOrder: perOrder, bytesPerUser: perOrderAndUser - perOrder };
}

async function growth(count: number, userIdOf: (number: number) => string): Promise<number> {
  await using redis = await startRedis();
  const client = new Redis(redis.url);
  const used = async () => Number(/used_memory:(\d+)/.exec(await client.info("memory"))?.[1]);
  const before = await used();
  await recordMany(redis.store, count, userIdOf);
  const grown = (await used()) - before;
  client.disconnect();
  return grown / count;
}

/** An order waits in the queue when the process is started. */
async function start(seed: number): Promise<Measurement> {
  await using emulator = await startEmulator();
  await using redis = await startRedis();
  await emulator.sqs.fill(generateOrders({ seed, users: 1, days: 1 }), 1);
  const startedMs = performance.now();
  await using program = startProgram(["index.ts"], { emulator, redis });
  await waitFor(program, async () => (await redis.store.global()).orders === 1, 1);
  return { startMs: performance.now() - startedMs };
}
