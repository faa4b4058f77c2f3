/** Compares competitors: each is measured once per round. */

import { withDeadline } from "../../deadline.ts";
import { messageOf } from "../../errors.ts";
import type { Context, Values } from "../cli.ts";
import { DEADLINE_MS } from "./processes.ts";

/** The options of the command. Without a default, each suite has its own. */
export const OPTIONS = {
  quick: { help: "the main ratios in two minutes: fewer orders, rounds and seconds, without memory" },
  rounds: { type: "integer", help: "number of measurements of each competitor: 3, memory 1" },
  orders: { type: "integer", multiple: true, help: "50000, memory a million; the largest, but drain measures each" },
  users: {
    type: "integer",
    multiple: true,
    help: "1000, stores also 100000; latency uses the first, memory the largest",
  },
  rates: { type: "integer", multiple: true, help: "orders/s of latency: 1000,5000" },
  days: { type: "integer", default: 2, help: "days the orders fall on: a backlog is seldom longer" },
  "board-users": { type: "integer", help: "users on the leaderboards of http: a million" },
  seconds: { type: "integer", help: "duration of a measurement: latency 10, http 5" },
  workers: { type: "integer", help: "CONSUMER_WORKERS of the program" },
  concurrency: { type: "integer", help: "CONSUMER_CONCURRENCY of the program" },
} as const;

/** Their values, and the progress of the command. */
export type Options = Values<typeof OPTIONS> & Pick<Context, "progress">;

/** The result of one run of a competitor; the names have the units. */
export type Measurement = Record<string, number>;
export type Competitors = Record<string, (round: number) => Promise<Measurement>>;
export type Spread = Record<"median" | "min" | "max", number>;
export type Table = { title: string; rows: Record<string, Record<string, Spread>> };

/**
 * Measures every competitor in every round.
 *
 * @param ratios pairs of competitors: a row of the table is the first divided by the second, within each round
 * @returns a table with a row per competitor and ratio
 * @throws an Error when one fails or takes longer than `DEADLINE_MS`
 */
export async function compare(
  title: string,
  competitors: Competitors,
  { rounds = 3, progress }: Pick<Options, "rounds" | "progress">,
  ratios: [string, string][] = [],
): Promise<Table> {
  const all = Object.entries(competitors);
  const results: Record<string, Measurement[]> = {};
  const update = progress(rounds * all.length, `measurement of ${title}`, `measurements of ${title}`);
  let done = 0;
  for (let round = 0; round < rounds; round++) {
    // In turn forwards and backwards: no competitor gains when the machine becomes slower or faster.
    for (const [name, run] of round % 2 === 0 ? all : all.toReversed()) {
      const measurement = await withDeadline(DEADLINE_MS, undefined, () => run(round)).catch((cause) => {
        throw new Error(`Cannot measure ${name}: ${messageOf(cause)}`, { cause });
      });
      results[name] = [...(results[name] ?? []), measurement];
      update(++done);
    }
  }
  const rows = all.map(([name]) => [name, summarize(results[name])]);
  for (const [name, other] of ratios) {
    const perRound = results[name]?.map((measurement, round) => divide(measurement, results[other]?.[round]));
    rows.push([`${name} ÷ ${other}`, summarize(perRound)]);
  }
  return { title, rows: Object.fromEntries(rows) };
}

const divide = (measurement: Measurement, other: Measurement = {}): Measurement =>
  Object.fromEntries(Object.entries(measurement).map(([name, value]) => [name, value / (other[name] ?? 0)]));

/** Omits what is not finite: the ratio to a value that is not measured, or to a CPU time too short for the clock. */
function summarize(measurements: Measurement[] = []): Record<string, Spread> {
  const values: Record<string, number[]> = {};
  for (const [name, value] of measurements.flatMap((each) => Object.entries(each)))
    if (Number.isFinite(value)) values[name] = [...(values[name] ?? []), value];
  return Object.fromEntries(Object.entries(values).map(([name, list]) => [name, spread(list)]));
}

function spread(values: number[]): Spread {
  const sorted = values.toSorted((a, b) => a - b);
  const [low = 0, high = 0] = [sorted[(sorted.length - 1) >> 1], sorted[sorted.length >> 1]];
  return { median: (low + high) / 2, min: sorted[0] ?? 0, max: sorted.at(-1) ?? 0 };
}
