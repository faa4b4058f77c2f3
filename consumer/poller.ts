import { messageOf } from "../errors.ts";
import { type ConsumerDeps, deleteProcessed, processBatch } from "./process-batch.ts";
import { pause, RETRY, retryPauseMs } from "./retry.ts";

/** The longest wait time of SQS: an idle worker sends three requests a minute. */
const IDLE_WAIT_SECONDS = 20;
/** Short, so that all loops but one end within a second after the queue is empty. */
const BUSY_WAIT_SECONDS = 1;
const FULL_BATCH = 10;
/** A receive that finds messages takes some ten milliseconds. After this time it is a long poll that has found none. */
const RECEIVE_MS = 250;
/** Consecutive failures until /health reports them. By then more than a second has passed: a short interruption is not reported. */
const FAILING_AFTER = 4;

/**
 * Receives one batch (at most ten messages) and processes it.
 *
 * @param shutdown aborts waiting for an unavailable store; messages that are not recorded are returned to the queue
 * @param abortReceive aborts the ReceiveMessage call
 * @param onReceived is called as soon as the ReceiveMessage call has returned
 * @returns the number of messages received, and a promise that resolves when they are deleted. The next poll may start before
 *   it resolves.
 */
export async function pollOnce(
  deps: ConsumerDeps,
  waitTimeSeconds: number,
  shutdown: AbortSignal,
  abortReceive = shutdown,
  onReceived = () => {},
): Promise<{ received: number; deleted: Promise<void> }> {
  const messages = await deps.queue.receive(waitTimeSeconds, abortReceive);
  onReceived();
  if (messages.length === 0) return { received: 0, deleted: Promise.resolve() };
  const batchDeps = deps.traced ? deps.traced(deps, messages) : deps;
  const processed = await processBatch(batchDeps, messages, shutdown);
  return { received: messages.length, deleted: deleteProcessed(batchDeps, processed) };
}

export interface Poller {
  /** Resolves after the stop, when every message received is processed or returned to the queue. */
  done: Promise<void>;
  /** Milliseconds since the last progress. Uses the monotonic clock, so a change of the system time does not look like a stall. */
  sinceProgressMs(): number;
  /** Why polls fail, after several consecutive failures; undefined while they succeed. */
  failure(): string | undefined;
}

/**
 * Polls until `stopping` aborts, in one to `concurrency` receive loops:
 *
 * - One loop always runs. While the queue is empty, it waits in a long poll.
 * - A full batch starts another loop. A batch that is not full ends its loop, unless it is the last one.
 * - While the store is unavailable, no loop receives, and open long polls are aborted.
 * - After a failed poll, a loop pauses. The pause doubles with each consecutive failure of any loop.
 * - After `stopping` aborts, loops finish their batches. A long poll that has not found messages is aborted.
 */
export function startPolling(deps: ConsumerDeps, concurrency: number, stopping: AbortSignal): Poller {
  const { availability, log } = deps;
  const failures = createFailures(log.error.bind(log), log.info.bind(log));
  const running = new Set<Promise<void>>();
  let activeLoops = 0;
  let progressAt = performance.now();
  let receives = new AbortController();
  let abortTimer: NodeJS.Timeout | undefined;

  function startLoop() {
    if (activeLoops >= concurrency || stopping.aborted) return;
    activeLoops++;
    const loop: Promise<void> = receiveLoop().finally(() => running.delete(loop));
    running.add(loop);
  }

  async function receiveLoop() {
    let deleting = Promise.resolve();

    /** After a full batch, the next receive starts while the batch is being deleted. */
    async function poll(onReceived: () => void): Promise<number> {
      const waitTimeSeconds = activeLoops > 1 ? BUSY_WAIT_SECONDS : IDLE_WAIT_SECONDS;
      const { received, deleted } = await pollOnce(deps, waitTimeSeconds, stopping, receives.signal, onReceived);
      const previous = deleting;
      deleting = received > 0 ? deleted.then(failures.succeeded) : deleted;
      // A rejection is handled where `deleting` is awaited, which may be after the next receive.
      deleting.catch(() => {});
      await (received === FULL_BATCH ? previous : Promise.all([previous, deleting]));
      return received;
    }

    while (!stopping.aborted) {
      await availability.whenAvailable();
      progressAt = performance.now();
      if (stopping.aborted) break;
      const received = await tryPoll(poll);
      if (received === FULL_BATCH) startLoop();
      else if (activeLoops > 1) break;
    }
    // Decrement in the same tick as the decision to end. Otherwise the last two loops could both see the other one and both end.
    activeLoops--;
    // A failed delete was handled by the last poll. After a stop it is not handled: the messages are delivered again.
    await deleting.catch(() => {});
  }

  /** @returns the number of messages received, 0 if the poll failed */
  async function tryPoll(poll: (onReceived: () => void) => Promise<number>): Promise<number> {
    const { signal } = receives;
    let hasReceived = false;
    const onReceived = () => {
      hasReceived = true;
      progressAt = performance.now();
    };
    try {
      const received = await poll(onReceived);
      if (received === 0) failures.receivedNothing();
      return received;
    } catch (error) {
      // Aborted because the store became unavailable: not a failure of the queue.
      if (signal.aborted && !stopping.aborted) return 0;
      const pauseMs = failures.failed(error, hasReceived, stopping.aborted);
      if (!stopping.aborted) await pause(pauseMs, stopping);
      return 0;
    } finally {
      progressAt = performance.now();
    }
  }

  /**
   * Aborts long polls that have not found messages: what they found from now on could not be recorded. Does not abort a receive
   * whose response may be on its way: SQS has already made those messages invisible and raised their receive count.
   */
  function abortIdleReceives() {
    const idleMs = performance.now() - progressAt;
    clearTimeout(abortTimer);
    abortTimer = setTimeout(
      () => {
        const hasRecovered = !stopping.aborted && availability.reason() === undefined;
        if (hasRecovered) return;
        receives.abort();
        receives = new AbortController();
      },
      Math.max(0, RECEIVE_MS - idleMs),
    );
  }

  async function untilAllLoopsEnd() {
    while (running.size > 0) await Promise.all(running);
    clearTimeout(abortTimer);
  }

  availability.listen(abortIdleReceives);
  stopping.addEventListener("abort", abortIdleReceives, { once: true });
  startLoop();
  return {
    done: untilAllLoopsEnd(),
    sinceProgressMs: () => Math.min(performance.now() - progressAt, availability.sinceAvailableMs()),
    failure: failures.reason,
  };
}

/** Counts consecutive failed polls of all loops. Logs the first failure and the recovery. */
function createFailures(logError: (line: object) => void, logInfo: (line: object) => void) {
  let consecutive = 0;
  let lastError = "";
  /** The last failure was in processing or deleting: then an empty receive does not prove a recovery. */
  let failedAfterReceive = false;

  function succeeded() {
    if (consecutive > 0) logInfo({ event: "polling_recovered", errors: consecutive });
    consecutive = 0;
    failedAfterReceive = false;
  }

  /** @returns how long to pause, ms */
  function failed(error: unknown, hasReceived: boolean, isStopping: boolean): number {
    failedAfterReceive = hasReceived;
    if (isStopping) return 0;
    lastError = messageOf(error);
    consecutive++;
    if (consecutive === 1) logError({ event: "polling_failed", error });
    return retryPauseMs(RETRY.poll, consecutive);
  }

  return {
    succeeded,
    failed,
    receivedNothing: () => {
      if (!failedAfterReceive) succeeded();
    },
    reason: () => (consecutive >= FAILING_AFTER ? lastError : undefined),
  };
}
