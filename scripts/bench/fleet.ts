/** How several processes share one queue, and what an order costs then. */

import type { Options } from "../bench.ts";
import { observe } from "./drain.ts";
import { generateOrders } from "./orders.ts";
import { waitFor } from "./processes.ts";
import { startEmulator, startProgram, startRedis } from "./rig.ts";
import { compare, type Measurement, type Table } from "./rounds.ts";

const SIZES = [1, 2, 4, 8];

export async function fleet(options: Options): Promise<Table[]> {
  const orders = Math.max(...(options.orders ?? [50_000]));
  const sides = SIZES.map((size) => {
    const measure = (seed: number) => drainTogether(size, orders, seed, options);
    return [`${size} process${size > 1 ? "es" : ""}`, measure];
  });
  return [await compare(`Drain of ${orders} orders by several processes`, Object.fromEntries(sides), options)];
}

async function drainTogether(size: number, orders: number, seed: number, options: Options): Promise<Measurement> {
  await using emulator = await startEmulator();
  await using redis = await startRedis();
  await using parts = new AsyncDisposableStack();
  // One worker each: eight processes have more threads than cores as it is.
  const setting = { ...options, workers: options.workers ?? 1, emulator, redis };
  const programs = Array.from({ length: size }, () => parts.use(startProgram(["index.ts"], setting)));
  for (const program of programs) await waitFor(program, () => fetch(program.url));
  const signal = (name: NodeJS.Signals) => programs.forEach(({ pid }) => void process.kill(pid, name));
  // All begin at one moment, with a full queue. It has to fill in the five seconds after which a silent worker is replaced.
  signal("SIGSTOP");
  const messages = generateOrders(
    { seed, users: options.users?.[0] ?? 1_000, days: options.days },
    { mismatch: 2, duplicates: 2 },
  );
  const expected = await emulator.sqs.fill(messages, orders);
  signal("SIGCONT");
  const measurement = await observe(emulator.sqs, { messages: orders, orders: expected }, programs, redis);
  const shares = (await settledBy(programs, orders)).map((settled) => settled / (orders / size));
  return { ...measurement, leastShare: Math.min(...shares), mostShare: Math.max(...shares) };
}

/** The messages that each has settled, once their metrics have them all. */
async function settledBy(programs: ReturnType<typeof startProgram>[], messages: number): Promise<number[]> {
  const settledByOne = async ({ url }: { url: string }) => {
    const text = await (await fetch(`${url}/metrics`)).text();
    return sum([...text.matchAll(/^orders_total\{.*\} (\d+)$/gm)].map(([, count]) => Number(count)));
  };
  const [first] = programs as [(typeof programs)[0]];
  return await waitFor(first, async () => {
    const settled = await Promise.all(programs.map(settledByOne));
    return sum(settled) === messages && settled;
  });
}

const sum = (numbers: readonly number[]) => numbers.reduce((total, each) => total + each, 0);
