import type { Queue } from "../../queue/queue.ts";
import type { Store } from "../../store/store.ts";

/** A real store behind a switch: while it is off every call fails, as it does with Redis gone. */
export function switchableStore(store: Store) {
  let off = false;
  const turn = (to: "off" | "on") => {
    off = to === "off";
  };
  const guarded =
    <A extends unknown[], R>(call: (...args: A) => Promise<R>) =>
    async (...args: A): Promise<R> => {
      if (off) throw new Error("the store is switched off");
      return await call(...args);
    };
  const { record, global, user, top, daily, check, checkThoroughly } = store;
  const wrapped: Store = {
    ...store,
    record: guarded(record),
    global: guarded(global),
    user: guarded(user),
    top: guarded(top),
    daily: guarded(daily),
    check: guarded(check),
    checkThoroughly: guarded(checkThoroughly),
  };
  return { store: wrapped, turn };
}

/** A real queue of which single calls can be replaced, and that notes the names of all calls. */
export function observedQueue(queue: Queue, replaced: Partial<Queue> = {}) {
  const calls: string[] = [];
  const noted = Object.entries({ ...queue, ...replaced }).map(([name, value]) => [
    name,
    typeof value !== "function"
      ? value
      : (...args: unknown[]) => {
          calls.push(name);
          return (value as (...args: unknown[]) => unknown)(...args);
        },
  ]);
  return { queue: Object.fromEntries(noted) as Queue, calls };
}
