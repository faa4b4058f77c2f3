import type { Order, Recorded, Store } from "./store.ts";

interface Batch {
  orders: readonly Order[];
  resolve(results: Recorded[]): void;
  reject(error: unknown): void;
}

/**
 * Combines batches into fewer calls of `record`, because the cost of a call is much higher than that of one more order. Batches
 * that arrive during a call are recorded together by the next call. If that call rejects, all of its batches reject.
 *
 * @returns a function like `record`. It can take twice the deadline of `record`: a running call comes first
 */
export function createBatchWrites(record: Store["record"]): Store["record"] {
  let waiting: Batch[] = [];
  let busy = false;

  async function sendAll() {
    busy = true;
    while (waiting.length > 0) {
      const batches = waiting;
      waiting = [];
      await send(batches);
    }
    busy = false;
  }

  async function send(batches: readonly Batch[]) {
    try {
      const results = await record(batches.flatMap(({ orders }) => orders));
      for (const { orders, resolve } of batches) resolve(results.splice(0, orders.length));
    } catch (error) {
      for (const { reject } of batches) reject(error);
    }
  }

  return (orders) => {
    const { promise, resolve, reject } = Promise.withResolvers<Recorded[]>();
    waiting.push({ orders, resolve, reject });
    if (!busy) void sendAll();
    return promise;
  };
}
