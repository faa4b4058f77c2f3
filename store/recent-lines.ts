import { MAX_RECENT, type RecentOrder } from "./store.ts";

type Outcome = RecentOrder["outcome"];

/** @returns the orders as lines of JSON, by outcome, the newest last. At most `MAX_RECENT` per outcome, because no more are kept */
export function toLines(orders: readonly RecentOrder[]): [Outcome, string[]][] {
  const byOutcome = Map.groupBy(orders, ({ outcome }) => outcome);
  return Array.from(byOutcome, ([outcome, all]) => [
    outcome,
    all.slice(-MAX_RECENT).map((order) => JSON.stringify(order)),
  ]);
}

/** @returns the orders of the lines. Lines that are damaged or of another version are skipped */
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
