/** How long an order takes from its sending until the API shows it, at rates a shop has. */

import type { Options } from "../bench.ts";
import { generateOrders, take } from "./orders.ts";
import { waitFor } from "./processes.ts";
import { startEmulator, startProgram, startRedis } from "./rig.ts";
import { compare, type Measurement, type Table } from "./rounds.ts";
import type { Sqs } from "./sqs.ts";

const RATES = [100, 1_000];
/** Short enough to be even: of 1,000 a second ten leave at a time, in one request. */
const TICK_MS = 10;
/** Sent before, so that connections are open and the code is compiled. */
const WARM_UP_SECONDS = 2;

export async function latency(options: Options): Promise<Table[]> {
  const sides = RATES.map((rate) => [`${rate} orders/s`, (seed: number) => measure(rate, seed, options)]);
  return [await compare("Latency from sending to /stats/global", Object.fromEntries(sides), options)];
}

async function measure(rate: number, seed: number, options: Options): Promise<Measurement> {
  await using emulator = await startEmulator();
  await using redis = await startRedis();
  await using program = startProgram(["index.ts"], { ...options, emulator, redis });
  const url = `${program.url}/stats/global`;
  await waitFor(program, () => fetch(url));
  const messages = generateOrders({ seed, users: options.users?.[0] ?? 1_000, days: options.days });
  const orders = take(messages, rate * (WARM_UP_SECONDS + (options.seconds ?? 10)));
  const sentAtMs: number[] = [];
  const bodies = orders.map(({ body }) => body);
  const sending = sendEvenly(emulator.sqs, bodies, rate, sentAtMs);
  const [latenciesMs] = await Promise.all([pollTotals(url, orders.length, sentAtMs), sending]);
  const sorted = latenciesMs.slice(rate * WARM_UP_SECONDS).sort((a, b) => a - b);
  const percentile = (percent: number) => sorted[Math.ceil((sorted.length * percent) / 100) - 1] ?? 0;
  return { p50Ms: percentile(50), p99Ms: percentile(99) };
}

/** Notes for every order the moment before its request leaves; answers are not waited for, to keep the pace. */
async function sendEvenly(sqs: Sqs, bodies: string[], rate: number, sentAtMs: number[]) {
  const size = Math.ceil((rate * TICK_MS) / 1000);
  const startedMs = performance.now();
  const sending: Promise<void>[] = [];
  for (let at = 0; at < bodies.length; at += size) {
    await Bun.sleep(Math.max(0, startedMs + (at / rate) * 1000 - performance.now()));
    const batch = bodies.slice(at, at + size);
    const nowMs = performance.now();
    sentAtMs.push(...batch.map(() => nowMs));
    sending.push(sqs.send(batch));
  }
  await Promise.all(sending);
}

/** The k-th order sent is there with the first total of at least k. */
async function pollTotals(url: string, orders: number, sentAtMs: number[]): Promise<number[]> {
  const latenciesMs: number[] = [];
  while (latenciesMs.length < orders) {
    const { total_orders } = (await (await fetch(url)).json()) as { total_orders: number };
    const nowMs = performance.now();
    while (latenciesMs.length < total_orders) latenciesMs.push(nowMs - (sentAtMs[latenciesMs.length] ?? 0));
    await Bun.sleep(1);
  }
  return latenciesMs;
}
