import type { Log } from "../log.ts";
import type { Store } from "../store/store.ts";
import { pause } from "./pause.ts";

/** The first look at a store that just failed, and the longest pause between looks: counting resumes within a second. */
const FIRST_PAUSE_MS = 50;
const MAX_PAUSE_MS = 500;

export type StoreGate = ReturnType<typeof createStoreGate>;

/**
 * Knows whether the store takes orders. Nothing may be received while it does not: every receive raises the
 * receive count, and enough of them send good orders to the dead-letter queue.
 */
export function createStoreGate({ store, log }: { store: Store; log: Log }, stopping: AbortSignal) {
  let reason: string | undefined;
  let reopened = Promise.resolve();
  let openSince = performance.now();

  /** Says that the store has failed; the gate is closed until it is seen to take writes again. */
  function close(error: unknown) {
    if (reason !== undefined) return;
    reason = error instanceof Error ? error.message : String(error);
    log.warn({ event: "store_away", reason });
    reopened = untilStoreAnswers();
  }

  async function untilStoreAnswers() {
    const since = performance.now();
    for (let pauseMs = FIRST_PAUSE_MS; !stopping.aborted; pauseMs = Math.min(pauseMs * 2, MAX_PAUSE_MS)) {
      await pause(pauseMs, stopping);
      if (await takesWrites()) {
        reason = undefined;
        openSince = performance.now();
        log.info({ event: "store_back", awayMs: Math.round(performance.now() - since) });
        return;
      }
    }
  }

  const takesWrites = () =>
    store.check().then(
      () => true,
      () => false,
    );

  return {
    close,
    /** Why the gate is closed; undefined while it is open. */
    reason: () => reason,
    /** How long the gate has been open, ms. */
    sinceOpenMs: () => performance.now() - openSince,
    /** Resolves when the gate is open, or at the stop. */
    whenOpen: () => reopened,
  };
}
