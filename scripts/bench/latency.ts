/** How long it takes from sending an order until the API shows it, at the rates of a shop. */

import { startEmulator, startProgram, startRedis } from "./fixtures.ts";
import { waitFor } from "./processes.ts";
import { compare, type Measurement, type Options, type Table } from "./rounds.ts";
import { generateOrders, type Sqs, take } from "./sqs.ts";

/** Not measured: connections are opened and the code is compiled. */
const WARM_UP_SECONDS = 2;

/** @returns p50 and p99 of each rate, ms */
export async function latency(options: Options): Promise<Table[]> {
  const rates = (options.rates ?? [1_000, 5_000]).map((rate) => [
    `${rate} orders/s`,
    (seed: number) => measure(rate, seed, options),
  ]);
  return [await compare("Latency from sending to /stats/global", Object.fromEntries(rates), options)];
}

async function measure(rate: number, seed: number, options: Options): Promise<Measurement> {
  await using emulator = await startEmulator();
  await using redis = await startRedis();
  await using program = startProgram(["index.ts"], { ...options, emulator, redis });
  const url = `${program.url}/stats/global`;
  await waitFor(program, () => fetch(url));
  const messages = generateOrders({ seed, users: options.users?.[0] ?? 1_000, days: options.days });
  const bodies = take(messages, rate * (WARM_UP_SECONDS + (options.seconds ?? 10))).map(({ body }) => body);
  const sentAtMs: number[] = [];
  const sending = sendEvenly(emulator.sqs, bodies, rate, sentAtMs);
  const [latenciesMs] = await Promise.all([pollTotals(url, bodies.length, sentAtMs), sending]);
  const sorted = latenciesMs.slice(rate * WARM_UP_SECONDS).sort((a, b) => a - b);
  const percentile = (percent: number) => sorted[Math.ceil((sorted.length * percent) / 100) - 1] ?? 0;
  return { p50Ms: percentile(50), p99Ms: percentile(99) };
}

/**
 * Sends one order in each request, or ten from 1,000 orders/s on. Pauses to keep the rate, and does not wait for responses.
 * Appends the time before its request to `sentAtMs` for every order.
 */
async function sendEvenly(sqs: Sqs, bodies: string[], rate: number, sentAtMs: number[]) {
  const size = rate < 1_000 ? 1 : 10;
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

/** The k-th order is shown by the first total of at least k. @returns the latency of each order */
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
