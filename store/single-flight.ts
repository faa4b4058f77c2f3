import type { Store, Totals } from "./store.ts";

/** The result of a read. It includes every order that was recorded before `asOfMs`, when the read began. */
export interface Read<T> {
  value: T;
  asOfMs: number;
}

export type Reads = ReturnType<typeof createSingleFlight>;

/**
 * @returns the read functions of the store. Concurrent identical reads share one request and its result, except for `user`: equal
 *   reads of one user are rare, and the Redis store combines those of different users
 */
export function createSingleFlight(store: Pick<Store, "global" | "user" | "userOn" | "top" | "daily">) {
  function shared<A extends unknown[], T>(read: (...args: A) => Promise<T>): (...args: A) => Promise<Read<T>> {
    const pending = new Map<string, Promise<Read<T>>>();
    return (...args) => {
      const key = args.join(" ");
      const existing = pending.get(key);
      if (existing) return existing;
      const asOfMs = Date.now();
      const result = read(...args).then((value) => ({ value, asOfMs }));
      const remove = () => pending.delete(key);
      pending.set(key, result);
      result.then(remove, remove);
      return result;
    };
  }

  async function user(userId: string): Promise<Read<Totals>> {
    const asOfMs = Date.now();
    return { value: await store.user(userId), asOfMs };
  }

  const { global, userOn, top, daily } = store;
  return { user, global: shared(global), userOn: shared(userOn), top: shared(top), daily: shared(daily) };
}
