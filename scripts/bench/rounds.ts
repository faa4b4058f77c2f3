/** Side by side: every side once a round, and what the rounds add up to. */

import type { Options } from "../bench.ts";
import { DEADLINE_MS } from "./processes.ts";

/** What one run of one side showed, the unit in each name. */
export type Measurement = Record<string, number>;
export type Sides = Record<string, (round: number) => Promise<Measurement>>;
export type Spread = Record<"median" | "min" | "max", number>;
export type Table = { title: string; rows: Record<string, Record<string, Spread>> };

type Turns = Pick<Options, "rounds" | "progress">;

/** Runs all sides in every round. A ratio is that of a side to another in the same round. */
export async function compare(title: string, sides: Sides, options: Turns, ratios: [string, string][] = []) {
  const { rounds, progress } = options;
  const results: Record<string, Measurement[]> = {};
  const update = progress(rounds * Object.keys(sides).length, `measurements of ${title}`);
  let done = 0;
  for (let round = 0; round < rounds; round++) {
    // The order changes with every round: a machine that slows down or speeds up favours neither.
    for (const [side, measure] of round % 2 === 0 ? Object.entries(sides) : Object.entries(sides).toReversed()) {
      const measurement = await within(`${title}, ${side}`, measure(round));
      results[side] = [...(results[side] ?? []), measurement];
      update(++done);
    }
  }
  const rows = Object.keys(sides).map((side) => [side, summarize(results[side] ?? [])]);
  for (const [side, other] of ratios) {
    const perRound = results[side]?.map((measurement, round) => divide(measurement, results[other]?.[round] ?? {}));
    rows.push([`${side} ÷ ${other}`, summarize(perRound ?? [])]);
  }
  return { title, rows: Object.fromEntries(rows) } as Table;
}

/** Rejects when the work takes so long that it must hang. */
export async function within<T>(what: string, work: Promise<T>): Promise<T> {
  const { promise: late, reject } = Promise.withResolvers<never>();
  const error = new Error(`${what}: not done in ${DEADLINE_MS / 60_000} minutes`);
  const timer = setTimeout(reject, DEADLINE_MS, error);
  return await Promise.race([work, late]).finally(() => clearTimeout(timer));
}

/** Only what both have: a CPU time too short for its clock has no ratio. */
function divide(side: Measurement, other: Measurement): Measurement {
  const ratios = Object.entries(side).map(([name, value]): [string, number] => [name, value / (other[name] ?? 0)]);
  return Object.fromEntries(ratios.filter(([, ratio]) => Number.isFinite(ratio)));
}

function summarize(measurements: Measurement[]): Record<string, Spread> {
  const names = new Set(measurements.flatMap((each) => Object.keys(each)));
  return Object.fromEntries([...names].map((name) => [name, spread(measurements.flatMap((each) => each[name] ?? []))]));
}

function spread(values: number[]): Spread {
  const sorted = values.toSorted((a, b) => a - b);
  const [low = 0, high = 0] = [sorted[(sorted.length - 1) >> 1], sorted[sorted.length >> 1]];
  return { median: (low + high) / 2, min: sorted[0] ?? 0, max: sorted.at(-1) ?? 0 };
}
