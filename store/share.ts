import type { Store } from "./store.ts";

/**
 * The store for many readers: identical reads on their way at one moment share one trip and one answer, which is as
 * old as the first of them.
 */
export function shareReads(store: Store): Store {
  function shared<A extends unknown[], T>(read: (...args: A) => Promise<T>): (...args: A) => Promise<T> {
    const underWay = new Map<string, Promise<T>>();
    return (...args) => {
      const key = args.join(" ");
      const known = underWay.get(key);
      if (known) return known;
      const answer = read(...args);
      const done = () => underWay.delete(key);
      underWay.set(key, answer);
      answer.then(done, done);
      return answer;
    };
  }

  const { global, user, top, daily } = store;
  return {
    ...store,
    global: shared(global),
    user: shared(user),
    top: shared(top),
    daily: shared(daily),
  };
}
