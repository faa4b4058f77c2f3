import { MAX_RECENT, type RecentOrder } from "./store.ts";

type Outcome = RecentOrder["outcome"];

/** The orders as lines to keep, by outcome, the newest last; no more than will stay: a flood of duplicates is cheap. */
export function toLines(orders: readonly RecentOrder[]): [Outcome, string[]][] {
  const byOutcome = Map.groupBy(orders, ({ outcome }) => outcome);
  return Array.from(byOutcome, ([outcome, all]) => [
    outcome,
    all.slice(-MAX_RECENT).map((order) => JSON.stringify(order)),
  ]);
}

/** The orders of the lines, without those that are damaged or another version's: the others are still worth a look. */
export function toRecent(outcome: Outcome, lines: readonly string[]): RecentOrder[] {
  return lines.flatMap((line) => {
    try {
      const order = JSON.parse(line);
      return order?.outcome === outcome ? [order] : [];
    } catch {
      return [];
    }
  });
}
