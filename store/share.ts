import type { Store } from "./store.ts";

/** What a read answered, and when it began: every order applied before that is in it. */
export interface Read<T> {
  value: T;
  asOfMs: number;
}

export type Reads = ReturnType<typeof shareReads>;

/** The store for many readers: identical reads on their way at one moment share one trip and one answer. */
export function shareReads({ global, user, top, daily }: Pick<Store, "global" | "user" | "top" | "daily">) {
  function shared<A extends unknown[], T>(read: (...args: A) => Promise<T>): (...args: A) => Promise<Read<T>> {
    const underWay = new Map<string, Promise<Read<T>>>();
    return (...args) => {
      const key = args.join(" ");
      const known = underWay.get(key);
      if (known) return known;
      const asOfMs = Date.now();
      const answer = read(...args).then((value) => ({ value, asOfMs }));
      const done = () => underWay.delete(key);
      underWay.set(key, answer);
      answer.then(done, done);
      return answer;
    };
  }

  return { global: shared(global), user: shared(user), top: shared(top), daily: shared(daily) };
}
