import { pause } from "./pause.ts";
import { type ConsumerParts, settle } from "./settle.ts";

/** SQS's longest wait: one request a third of a minute keeps an idle worker listening. */
const IDLE_WAIT_SECONDS = 20;
/** Of several lanes each waits briefly, so that all but one are gone a second after the load. */
const BUSY_WAIT_SECONDS = 1;
const FULL_BATCH = 10;
const FIRST_ERROR_PAUSE_MS = 100;
const MAX_ERROR_PAUSE_MS = 5_000;

/** One step: receive at most ten messages and settle them. Answers how many there were. */
export async function pollOnce(parts: ConsumerParts, waitTimeSeconds: number, stopping: AbortSignal): Promise<number> {
  const messages = await parts.queue.receive(waitTimeSeconds, stopping);
  if (messages.length > 0) await settle(parts, messages, stopping);
  return messages.length;
}

export interface Poller {
  /** Resolves when the stop was asked for and every message received is settled or released. */
  done: Promise<void>;
  /** How long ago a receive last came back, ms; by the monotonic clock, so that a clock step is no stall. */
  sinceLastPollMs(): number;
}

/**
 * Polls until `stopping`. A lane is one receive and the settling of what it brought; a full batch opens another
 * lane, up to `concurrency`, and a batch that is not full closes one, down to a single long poll.
 */
export function startPolling(parts: ConsumerParts, concurrency: number, stopping: AbortSignal): Poller {
  const lanes = new Set<Promise<void>>();
  let lastPollAt = performance.now();
  let errorsInARow = 0;

  async function lane(): Promise<void> {
    while (!stopping.aborted) {
      await parts.gate.whenOpen();
      if (stopping.aborted) return;
      const received = await pollSafely();
      if (received === FULL_BATCH) openLane();
      else if (lanes.size > 1) return;
    }
  }

  function openLane() {
    if (lanes.size >= concurrency || stopping.aborted) return;
    const opened: Promise<void> = lane().finally(() => lanes.delete(opened));
    lanes.add(opened);
  }

  async function pollSafely(): Promise<number> {
    try {
      const received = await pollOnce(parts, lanes.size > 1 ? BUSY_WAIT_SECONDS : IDLE_WAIT_SECONDS, stopping);
      if (errorsInARow > 0) parts.log.info({ event: "polling_recovered", errors: errorsInARow });
      errorsInARow = 0;
      return received;
    } catch (error) {
      if (!stopping.aborted) await afterError(error);
      return 0;
    } finally {
      lastPollAt = performance.now();
    }
  }

  /** One line for the first error of a row; the pauses grow until a poll succeeds. */
  async function afterError(error: unknown) {
    if (errorsInARow++ === 0) parts.log.error({ event: "polling_failed", error });
    await pause(Math.min(FIRST_ERROR_PAUSE_MS * 2 ** errorsInARow, MAX_ERROR_PAUSE_MS), stopping);
  }

  async function untilAllLanesEnd() {
    while (lanes.size > 0) await Promise.all(lanes);
  }

  openLane();
  return { done: untilAllLanesEnd(), sinceLastPollMs: () => performance.now() - lastPollAt };
}
