import { withDeadline } from "../deadline.ts";
import { messageOf } from "../errors.ts";
import type { Log } from "../log.ts";
import { createOutageLog } from "../outage-log.ts";
import type { Store } from "../store/store.ts";
import { pause, RETRY, retryPauseMs } from "./retry.ts";

/** How often an available store is checked: a worker that waits for messages has no batch that would fail. */
const CHECK_INTERVAL_MS = 1_000;
/** Longer than a check takes on a busy machine, and short enough that a hung store is noticed before many messages arrive. */
const CHECK_DEADLINE_MS = 2_000;

export type StoreAvailability = ReturnType<typeof createStoreAvailability>;

/**
 * Keeps track of whether the store accepts orders. It is unavailable until the first check succeeds, and later from the first
 * batch or check that fails until that succeeds. After a batch has failed, a successful check alone would not prove that the
 * batch can be recorded.
 *
 * While the store is unavailable, nothing may be received: each receive raises the receive count, and after enough of them SQS
 * moves valid orders to the dead-letter queue.
 */
export function createStoreAvailability({ store, log }: { store: Store; log: Log }, stopping: AbortSignal) {
  let reason: string | undefined = "the store has not been checked yet";
  let available = Promise.withResolvers<void>();
  let availableSince = performance.now();
  const outage = createOutageLog(log, { failed: "store_unavailable", recovered: "store_available" });
  let checking = false;
  const checkTimer = setInterval(() => void checkRegularly(), CHECK_INTERVAL_MS);
  stopping.addEventListener("abort", stop, { once: true });

  function stop() {
    clearInterval(checkTimer);
    available.resolve();
  }

  async function checkRegularly() {
    if (reason !== undefined || checking) return;
    checking = true;
    try {
      await withDeadline(CHECK_DEADLINE_MS, stopping, store.check);
    } catch (error) {
      if (!stopping.aborted && fail(error)) void retry(async () => {});
    } finally {
      checking = false;
    }
  }

  /** Checks the store thoroughly. Resolves after the first attempt; retries in the background until one succeeds. */
  async function start() {
    try {
      await store.checkThoroughly();
      becomeAvailable();
    } catch (error) {
      setReason(error);
      void retry(store.checkThoroughly);
    }
  }

  /**
   * Reports a batch or check that failed.
   * @returns true if the store was available until now. Then the caller must call `retry`; other callers must wait
   */
  function fail(error: unknown): boolean {
    if (reason !== undefined) return false;
    available = Promise.withResolvers<void>();
    if (stopping.aborted) available.resolve();
    setReason(error);
    return true;
  }

  /** Calls `attempt` until it succeeds, which makes the store available. @returns its result, or undefined at shutdown */
  async function retry<T>(attempt: () => Promise<T>): Promise<T | undefined> {
    const since = performance.now();
    for (let failures = 1; ; failures++) {
      await pause(retryPauseMs(RETRY.store, failures), stopping);
      if (stopping.aborted) return;
      try {
        await store.check();
        const result = await attempt();
        outage.succeeded({ unavailable_ms: Math.round(performance.now() - since) });
        becomeAvailable();
        return result;
      } catch (error) {
        setReason(error);
      }
    }
  }

  function becomeAvailable() {
    reason = undefined;
    availableSince = performance.now();
    available.resolve();
  }

  function setReason(error: unknown) {
    reason = messageOf(error);
    outage.failed(reason);
  }

  return {
    start,
    fail,
    retry,
    /** Why the store is unavailable; undefined while it is available. */
    reason: () => reason,
    sinceAvailableMs: () => performance.now() - availableSince,
    /** Resolves when the store is available, or at shutdown. */
    whenAvailable: () => available.promise,
  };
}
