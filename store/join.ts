import type { Order, Recorded, Store } from "./store.ts";

interface Batch {
  orders: readonly Order[];
  resolve(answers: Recorded[]): void;
  reject(error: unknown): void;
}

/**
 * Records batches together: those that come while a call is on its way wait for its end and go as one. A call costs the
 * store much and one more order little. They are one step then: where the store refuses one order, all batches of
 * the call are rejected. Behind a call that runs into its deadline the next one may take as long again.
 */
export function joinBatches(record: Store["record"]): Store["record"] {
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
      const answers = await record(batches.flatMap(({ orders }) => orders));
      for (const { orders, resolve } of batches) resolve(answers.splice(0, orders.length));
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
