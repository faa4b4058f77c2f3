import type { Database, SQLQueryBindings } from "bun:sqlite";
import { mergeEntries, timeOf, toEntry, toHistory, toText } from "./order-history.ts";
import { pages } from "./sqlite-full-access.ts";
import { type FullStore, HISTORY_LIMITS, HISTORY_OUTCOMES, type HistoryEntry, PAGE_SIZE } from "./store.ts";

/**
 * @param oldestMs returns the time before which messages are removed
 * @returns the functions of the order history
 */
export function createSqliteHistory(db: Database, oldestMs: () => number) {
  const prepare = <Row, Args extends SQLQueryBindings[]>(sql: string) => db.prepare<Row, Args>(sql);
  const stored = prepare<{ text: string }, [string, string]>(
    "SELECT text FROM history WHERE outcome = ? AND order_id = ?",
  );
  const write = db.prepare("INSERT OR REPLACE INTO history (outcome, order_id, at, text) VALUES (?, ?, ?, ?)");
  const removeOld = db.prepare("DELETE FROM history WHERE outcome = ? AND at < ?");
  const removeExcess = db.prepare(
    `DELETE FROM history WHERE rowid IN
      (SELECT rowid FROM history WHERE outcome = ? ORDER BY at DESC LIMIT -1 OFFSET ?)`,
  );
  const rows = prepare<{ orderId: string; text: string }, [string, string, number]>(
    "SELECT order_id AS orderId, text FROM history WHERE outcome = ? AND order_id >= ? ORDER BY order_id LIMIT ?",
  );
  const textOf = (outcome: string, orderId: string) => stored.get(outcome, orderId)?.text;

  const addAll = db.transaction((added: readonly HistoryEntry[]) => {
    for (const [outcome, entries] of Map.groupBy(added, ({ outcome }) => outcome)) {
      for (const entry of entries) {
        const before = toEntry(outcome, entry.orderId, textOf(outcome, entry.orderId));
        const merged = mergeEntries(before, entry);
        write.run(outcome, entry.orderId, Math.max(timeOf(before), timeOf(entry)), toText(merged));
      }
      removeOld.run(outcome, oldestMs());
      removeExcess.run(outcome, HISTORY_LIMITS[outcome].orders);
    }
  });

  async function addHistory(entries: readonly HistoryEntry[]) {
    if (entries.length > 0) addAll.immediate(entries);
  }

  async function* wholeHistory(): AsyncGenerator<HistoryEntry[]> {
    for (const outcome of HISTORY_OUTCOMES)
      yield* pages(
        (from) => rows.all(outcome, from, PAGE_SIZE).map(({ orderId, text }) => toEntry(outcome, orderId, text)),
        "",
        (page: HistoryEntry[]) => `${page.at(-1)?.orderId}\0`,
      );
  }

  return {
    addHistory,
    history: async (orderId: string) => toHistory(orderId, oldestMs(), (outcome) => textOf(outcome, orderId)),
    wholeHistory,
  } satisfies Partial<FullStore>;
}
