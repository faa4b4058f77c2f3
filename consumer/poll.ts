import { pause } from "./pause.ts";
import { type ConsumerParts, deleteAll, settle } from "./settle.ts";

/** SQS's longest wait: one request a third of a minute keeps an idle worker listening. */
const IDLE_WAIT_SECONDS = 20;
/** Of several lanes each waits briefly, so that all but one are gone a second after the load. */
const BUSY_WAIT_SECONDS = 1;
const FULL_BATCH = 10;
/** Where there are messages, a receive brings them in some ten milliseconds; one that is older only waits for some. */
const ANSWER_MS = 250;
const FIRST_ERROR_PAUSE_MS = 100;
const MAX_ERROR_PAUSE_MS = 5_000;

/**
 * One step: receive at most ten messages and settle them. Answers how many there were, and a promise of their deletes,
 * which need not be waited for before the next step. `cutOff` ends the receive, `stopping` a hold.
 */
export async function pollOnce(
  parts: ConsumerParts,
  waitTimeSeconds: number,
  stopping: AbortSignal,
  cutOff = stopping,
  onReceived = () => {},
): Promise<{ received: number; deleted: Promise<void> }> {
  const messages = await parts.queue.receive(waitTimeSeconds, cutOff);
  onReceived();
  if (messages.length === 0) return { received: 0, deleted: Promise.resolve() };
  const batch = parts.traced === undefined ? parts : parts.traced(parts, messages);
  const settled = await settle(batch, messages, stopping);
  return { received: messages.length, deleted: deleteAll(batch, settled) };
}

export interface Poller {
  /** Resolves when the stop was asked for and every message received is settled or released. */
  done: Promise<void>;
  /** How long nothing has moved, ms; by the monotonic clock, so that a clock step is no stall. */
  sinceProgressMs(): number;
  /** Why polls fail, once several in a row have; undefined while they succeed. */
  failure(): string | undefined;
}

/** Errors in a row that are more than a hiccup: by then the pauses have added up to some seconds. */
const FAILING_AFTER_ERRORS = 4;

/**
 * Polls until `stopping`. A lane is one receive and the settling of what it brought; a full batch opens another
 * lane, up to `concurrency`, and a batch that is not full closes one, down to a single long poll.
 */
export function startPolling(parts: ConsumerParts, concurrency: number, stopping: AbortSignal): Poller {
  const ending = new Set<Promise<void>>();
  let lanes = 0;
  let progressAt = performance.now();
  let errorsInARow = 0;
  let lastError = "";
  let settlingFails = false;
  const cutOff = new AbortController();
  let cutting: NodeJS.Timeout | undefined;

  /** Cut off with its answer on the way, a receive would leave its messages hidden from all, and received once for nothing. */
  function cutOffWhenIdle() {
    const idleMs = performance.now() - progressAt;
    cutting = setTimeout(() => cutOff.abort(), Math.max(0, ANSWER_MS - idleMs));
  }

  async function lane(): Promise<void> {
    let deleting = Promise.resolve();

    /** While there is more to receive, the deletes of one batch run beside the receive of the next. */
    async function step(onReceived: () => void): Promise<number> {
      const waitTimeSeconds = lanes > 1 ? BUSY_WAIT_SECONDS : IDLE_WAIT_SECONDS;
      const { received, deleted } = await pollOnce(parts, waitTimeSeconds, stopping, cutOff.signal, onReceived);
      const before = deleting;
      deleting = received > 0 ? deleted.then(afterSuccess) : deleted;
      // Heard when it is awaited, which may be after the next receive.
      deleting.catch(() => {});
      await (received === FULL_BATCH ? before : Promise.all([before, deleting]));
      return received;
    }

    while (!stopping.aborted) {
      await parts.gate.whenOpen();
      progressAt = performance.now();
      if (stopping.aborted) break;
      const received = await safely(step);
      if (received === FULL_BATCH) openLane();
      else if (lanes > 1) break;
    }
    // In the same turn in which it decides to end: two lanes must not both leave to the other.
    lanes--;
    // Of a failure the last step has heard, or the stop has come: the messages are delivered again.
    await deleting.catch(() => {});
  }

  function openLane() {
    if (lanes >= concurrency || stopping.aborted) return;
    lanes++;
    const opened: Promise<void> = lane().finally(() => ending.delete(opened));
    ending.add(opened);
  }

  /** Answers how many messages a step received, none where it failed. */
  async function safely(step: (onReceived: () => void) => Promise<number>): Promise<number> {
    let received = false;
    const onReceived = () => {
      received = true;
      progressAt = performance.now();
    };
    try {
      const messages = await step(onReceived);
      // An empty receive says nothing about deletes that fail; a batch has succeeded when it is deleted.
      if (messages === 0 && !settlingFails) afterSuccess();
      return messages;
    } catch (error) {
      settlingFails = received;
      if (!stopping.aborted) await afterError(error);
      return 0;
    } finally {
      progressAt = performance.now();
    }
  }

  function afterSuccess() {
    if (errorsInARow > 0) parts.log.info({ event: "polling_recovered", errors: errorsInARow });
    errorsInARow = 0;
    settlingFails = false;
  }

  /** One line for the first error of a row; the pauses grow until a poll succeeds. */
  async function afterError(error: unknown) {
    lastError = error instanceof Error ? error.message : String(error);
    if (errorsInARow++ === 0) parts.log.error({ event: "polling_failed", error });
    await pause(Math.min(FIRST_ERROR_PAUSE_MS * 2 ** errorsInARow, MAX_ERROR_PAUSE_MS), stopping);
  }

  async function untilAllLanesEnd() {
    while (ending.size > 0) await Promise.all(ending);
    clearTimeout(cutting);
  }

  stopping.addEventListener("abort", cutOffWhenIdle, { once: true });
  openLane();
  return {
    done: untilAllLanesEnd(),
    sinceProgressMs: () => Math.min(performance.now() - progressAt, parts.gate.sinceOpenMs()),
    failure: () => (errorsInARow >= FAILING_AFTER_ERRORS ? lastError : undefined),
  };
}
