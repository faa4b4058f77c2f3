/** The text of an entry of the order history: the number of messages, then the latest of them as lines of JSON, newest last. */
import { toRecent } from "./recent-lines.ts";
import { HISTORY_LIMITS, HISTORY_OUTCOMES, type HistoryEntry, type OrderHistory } from "./store.ts";

type Outcome = HistoryEntry["outcome"];

export const toText = ({ count, latest }: HistoryEntry) =>
  [count, ...latest.map((order) => JSON.stringify(order))].join("\n");

/** @returns the entry of a text, without messages if there is no text or all its lines are damaged */
export function toEntry(outcome: Outcome, orderId: string, text: string | null | undefined): HistoryEntry {
  const [count, ...lines] = (text ?? "").split("\n");
  return { outcome, orderId, count: Number(count) || 0, latest: toRecent(outcome, lines) };
}

/** @returns one entry of the messages of both, which have the same outcome and order id. history.lua does the same */
export function mergeEntries(stored: HistoryEntry, added: HistoryEntry): HistoryEntry {
  const latest = [...stored.latest, ...added.latest].slice(-HISTORY_LIMITS[added.outcome].messages);
  return { ...added, count: stored.count + added.count, latest };
}

export const ORDER_STATES = ["counted", "corrected", "rejected", "unknown"] as const;
export type OrderState = (typeof ORDER_STATES)[number];

/** @returns what became of an order */
export function stateOf(isCounted: boolean, { corrected, rejected, duplicate }: OrderHistory): OrderState {
  if (corrected) return "corrected";
  // Where there are duplicates, the order was counted, even if its marker has expired since.
  if (isCounted || duplicate) return "counted";
  return rejected ? "rejected" : "unknown";
}

/** When the latest message of an entry was processed, ms since the epoch. */
export const timeOf = ({ latest }: HistoryEntry) => latest.at(-1)?.atMs ?? 0;

/** @returns the history of an order id without what is older than `oldestMs`, which may not have been removed yet */
export function toHistory(
  orderId: string,
  oldestMs: number,
  textOf: (outcome: Outcome) => string | null | undefined,
): OrderHistory {
  const entries = HISTORY_OUTCOMES.map((outcome) => toEntry(outcome, orderId, textOf(outcome)));
  return Object.fromEntries(
    entries.filter((entry) => timeOf(entry) >= oldestMs).map((entry) => [entry.outcome, entry]),
  );
}
