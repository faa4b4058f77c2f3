import type { Log } from "../log.ts";
import { formatNumber, pluralize } from "../text.ts";
import type { Store, Totals } from "./store.ts";

export type DataLoss = ReturnType<typeof createDataLoss>;

/**
 * Detects data that the store loses while this process runs: a total with fewer orders than before (FLUSHALL, a Redis that
 * restarted without its data, a restored snapshot) and keys that Redis has evicted. Counting continues. The problem is reported
 * until the process is restarted, so that it cannot go unnoticed.
 */
export function createDataLoss({ store, log }: { store: Pick<Store, "evictedKeys">; log: Log }) {
  let mostOrders = 0;
  let decrease: string | undefined;
  let evictedAtStart: number | undefined;
  let evicted = 0;

  /** Must be called with every total that is read, in order. */
  function inspectTotal({ orders }: Totals) {
    if (orders < mostOrders) {
      log.error({ event: "store_went_back", orders_before: mostOrders, orders_now: orders });
      decrease = `store: the total decreased from ${pluralize(mostOrders, "order")} to ${formatNumber(orders)}: data was deleted or an older copy was restored`;
    }
    mostOrders = orders;
  }

  async function inspectEvictions() {
    const keys = await store.evictedKeys();
    if (keys === undefined) return;
    evictedAtStart ??= keys;
    // A restarted server counts from zero again.
    if (keys < evictedAtStart) evictedAtStart = 0;
    const since = keys - evictedAtStart;
    if (since > 0 && evicted === 0) log.error({ event: "store_keys_evicted", keys: since });
    evicted = Math.max(evicted, since);
  }

  const evictionProblem = () =>
    `store: Redis has evicted ${pluralize(evicted, "key")}: totals or markers may be lost. Set maxmemory-policy noeviction`;

  return {
    inspectTotal,
    inspectEvictions,
    wentBack: () => decrease !== undefined,
    evictedKeys: () => evicted,
    /** @returns one sentence for each detected loss */
    problems: () => [...(decrease ? [decrease] : []), ...(evicted > 0 ? [evictionProblem()] : [])],
  };
}
