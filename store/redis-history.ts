import historyScript from "./history.lua" with { type: "text" };
import { timeOf, toEntry, toHistory, toText } from "./order-history.ts";
import type { Connection } from "./redis-connection.ts";
import type { RedisKeys } from "./redis-keys.ts";
import { hashPages } from "./redis-values.ts";
import { type FullStore, HISTORY_LIMITS, HISTORY_OUTCOMES, type HistoryEntry } from "./store.ts";

/** Orders that are added at a time. It keeps Redis busy for less than a millisecond. */
const ADDED_AT_ONCE = 50;

/**
 * @param oldestMs returns the time before which messages are removed
 * @returns the functions of the order history
 */
export function createRedisHistory(redis: Connection, keys: RedisKeys, oldestMs: () => Promise<number>) {
  async function addHistory(added: readonly HistoryEntry[]) {
    const oldest = added.length > 0 ? await oldestMs() : 0;
    for (const [outcome, entries] of Map.groupBy(added, ({ outcome }) => outcome)) {
      const { orders, messages } = HISTORY_LIMITS[outcome];
      for (let at = 0; at < entries.length; at += ADDED_AT_ONCE) {
        const rows = entries
          .slice(at, at + ADDED_AT_ONCE)
          .flatMap((entry) => [entry.orderId, timeOf(entry), toText(entry)]);
        const [entriesKey, timesKey] = [keys.history(outcome), keys.historyTimes(outcome)];
        await redis.eval(historyScript, 2, entriesKey, timesKey, orders, messages, oldest, ...rows);
      }
    }
  }

  async function history(orderId: string) {
    const texts = HISTORY_OUTCOMES.map((outcome) => redis.hget(keys.history(outcome), orderId));
    const [oldest, ...found] = await Promise.all([oldestMs(), ...texts]);
    return toHistory(orderId, oldest, (outcome) => found[HISTORY_OUTCOMES.indexOf(outcome)]);
  }

  async function* wholeHistory(): AsyncGenerator<HistoryEntry[]> {
    for (const outcome of HISTORY_OUTCOMES)
      for await (const fields of hashPages(redis, keys.history(outcome)))
        yield Array.from({ length: fields.length / 2 }, (_, index) =>
          toEntry(outcome, fields[index * 2] ?? "", fields[index * 2 + 1]),
        );
  }

  return { addHistory, history, wholeHistory } satisfies Partial<FullStore>;
}
