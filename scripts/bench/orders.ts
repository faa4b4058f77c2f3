/** Orders of the bench, and the fast way into a store. */

import { dayOf } from "../../store/periods.ts";
import type { Store } from "../../store/store.ts";
import { type GeneratedMessage, generate } from "../generator.ts";

/** Enough for Redis to be the limit, and few enough for one script to take. */
const RECORDERS = 4;
const RECORD_BATCH = 200;

/** Valid orders up to now, but for the faults given in percent. */
export function generateOrders(setting: { seed: number; users: number; days: number }, faults = {}) {
  const mix = { mismatch: 0, invalid: 0, duplicates: 0, onValueMismatch: "correct" as const, ...faults };
  return generate({ ...mix, ...setting, nowMs: Date.now() });
}

/** The next of the messages. */
export function take(messages: Iterator<GeneratedMessage, never>, count: number): GeneratedMessage[] {
  return Array.from({ length: count }, () => messages.next().value);
}

/** Records an order of today for each number below `count`. */
export async function recordMany(store: Store, count: number, userIdOf: (number: number) => string) {
  const day = dayOf(Date.now());
  let next = 0;
  // Amounts in steps of a prime: orders that are neighbours here are none on a board.
  const orderOf = (n: number) => ({ id: `O-0-${n}`, userId: userIdOf(n), cents: 100 + ((n * 7919) % 50_000), day });
  async function recordBatches() {
    while (next < count) {
      const batch = Array.from({ length: Math.min(RECORD_BATCH, count - next) }, () => orderOf(next++));
      await store.record(batch);
    }
  }
  await Promise.all(Array.from({ length: RECORDERS }, recordBatches));
}
