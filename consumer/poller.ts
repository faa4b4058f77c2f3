import { messageOf } from "../errors.ts";
import type { Log } from "../log.ts";
import { createOutageLog } from "../outage-log.ts";
import type { Message } from "../queue/message.ts";
import { type ConsumerDeps, deleteProcessed, processBatch } from "./process-batch.ts";
import { createReceiveLimit } from "./receive-limit.ts";
import { pause, RETRY, retryPauseMs } from "./retry.ts";

/**
 * How long a receive waits for messages. No receive is aborted before its deadline: a server may go on with a long poll whose
 * client is gone, and the messages it finds then stay invisible until their visibility timeout ends. So a stop waits for the
 * receives in flight, which this makes short. It costs 2.6 million requests a month for each idle worker.
 */
const WAIT_SECONDS = 1;
const FULL_BATCH = 10;
/** A thousand times the size of a usual batch. */
const LARGE_BATCH_BYTES = 1024 * 1024;
/** An empty response may come early, but one that comes at once could be repeated thousands of times a second. */
const [EARLY_MS, EARLY_PAUSE_MS] = [500, 250];
/** For how long polls must fail until /health reports it: a short interruption is not reported. */
const FAILING_AFTER_MS = 1_000;
/** A stop has eight seconds, and processing the last batch needs some of them. */
const STOP_ABORTS_AFTER_MS = 4_000;

/**
 * Receives one batch (at most ten messages) and processes it.
 *
 * @param shutdown aborts waiting for an unavailable store; messages that are not recorded are returned to the queue
 * @param receive is called instead of the `receive` of the queue
 * @returns the number of messages received, and a promise that resolves when they are deleted. The next poll may start before
 *   it resolves.
 */
export async function pollOnce(
  deps: ConsumerDeps,
  waitTimeSeconds: number,
  shutdown: AbortSignal,
  receive = deps.queue.receive,
): Promise<{ received: number; deleted: Promise<void> }> {
  const messages = await receive(waitTimeSeconds, shutdown);
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
  /** Why polls have failed for more than a second; undefined while they succeed. */
  failure(): string | undefined;
}

/**
 * Polls until `stopping` aborts, in one to `concurrency` receive loops:
 *
 * - One loop always runs. While the queue is empty, it sends one receive after another.
 * - A full batch starts another loop, up to the receive limit. A batch that is not full ends its loop, unless it is the last one.
 * - While the store is unavailable, no loop receives.
 * - After a failed poll, a loop pauses. The pause doubles with each consecutive failure of any loop.
 * - After `stopping` aborts, loops finish the receives in flight and process their batches.
 */
export function startPolling(deps: ConsumerDeps, concurrency: number, stopping: AbortSignal): Poller {
  const { availability, queue } = deps;
  const failures = createFailures(deps.log);
  const limit = createReceiveLimit(concurrency);
  const running = new Set<Promise<void>>();
  const abortReceives = new AbortController();
  let abortTimer: NodeJS.Timeout | undefined;
  let activeLoops = 0;
  let progressAt = performance.now();

  function startLoop() {
    if (activeLoops >= limit.receives() || stopping.aborted) return;
    activeLoops++;
    const loop: Promise<void> = receiveLoop().finally(() => running.delete(loop));
    running.add(loop);
  }

  async function receiveLoop() {
    let deleting = Promise.resolve();

    /** After a full batch, the next receive starts while the batch is being deleted. */
    async function poll(onReceived: () => void): Promise<number> {
      const { received, deleted } = await pollOnce(deps, failures.waitSeconds(), stopping, (waitSeconds) =>
        receive(waitSeconds, onReceived),
      );
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
      const isNeeded = received === FULL_BATCH && activeLoops <= limit.receives();
      if (!isNeeded && activeLoops > 1) break;
    }
    // Decrement in the same tick as the decision to end. Otherwise the last two loops could both see the other one and both end.
    activeLoops--;
    // A failed delete was handled by the last poll. After a stop it is not handled: the messages are delivered again.
    await deleting.catch(() => {});
  }

  /** Receives once, and adjusts the receive limit. */
  async function receive(waitSeconds: number, onReceived: () => void): Promise<Message[]> {
    const inFlight = activeLoops;
    const startedAt = performance.now();
    const elapsedMs = () => performance.now() - startedAt;
    try {
      const messages = await queue.receive(waitSeconds, abortReceives.signal, undefined, limit.graceMs());
      const bytes = messages.reduce((sum, { body }) => sum + body.length, 0);
      if (messages.length === FULL_BATCH) limit.received(elapsedMs(), bytes, inFlight);
      // The collector alone starts late: large batches that are already processed would need twice the memory.
      if (bytes > LARGE_BATCH_BYTES) Bun.gc(true);
      if (messages.length === 0 && elapsedMs() < EARLY_MS) await pause(EARLY_PAUSE_MS, stopping);
      onReceived();
      return messages;
    } catch (error) {
      limit.failed(elapsedMs(), inFlight);
      throw error;
    }
  }

  /** @returns the number of messages received, 0 if the poll failed */
  async function tryPoll(poll: (onReceived: () => void) => Promise<number>): Promise<number> {
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
      const pauseMs = failures.failed(error, hasReceived, stopping.aborted);
      if (!stopping.aborted) await pause(pauseMs, stopping);
      return 0;
    } finally {
      progressAt = performance.now();
    }
  }

  async function untilAllLoopsEnd() {
    while (running.size > 0) await Promise.all(running);
    clearTimeout(abortTimer);
  }

  function abortLater() {
    abortTimer = setTimeout(() => abortReceives.abort(), STOP_ABORTS_AFTER_MS);
  }

  stopping.addEventListener("abort", abortLater, { once: true });
  startLoop();
  return {
    done: untilAllLoopsEnd(),
    sinceProgressMs: () => Math.min(performance.now() - progressAt, availability.sinceAvailableMs()),
    failure: failures.reason,
  };
}

/** Counts consecutive failed polls of all loops. Logs each reason once, and the recovery. */
function createFailures(log: Log) {
  const outage = createOutageLog(log, { failed: "polling_failed", recovered: "polling_recovered" }, "error");
  let consecutive = 0;
  let failingSince = 0;
  let lastError = "";
  /** The last failure was in processing or deleting: then an empty receive does not prove a recovery. */
  let failedAfterReceive = false;

  function succeeded() {
    outage.succeeded({ errors: consecutive });
    consecutive = 0;
    failedAfterReceive = false;
  }

  /** @returns how long to pause, ms */
  function failed(error: unknown, hasReceived: boolean, isStopping: boolean): number {
    failedAfterReceive = hasReceived;
    if (isStopping) return 0;
    lastError = messageOf(error);
    if (consecutive === 0) failingSince = performance.now();
    consecutive++;
    outage.failed(error);
    return retryPauseMs(RETRY.poll, consecutive);
  }

  return {
    succeeded,
    failed,
    receivedNothing: () => {
      if (!failedAfterReceive) succeeded();
    },
    /** After a failed receive no wait time: any response proves the recovery, even of an empty queue. */
    waitSeconds: () => (consecutive > 0 && !failedAfterReceive ? 0 : WAIT_SECONDS),
    reason: () => (consecutive > 0 && performance.now() - failingSince >= FAILING_AFTER_MS ? lastError : undefined),
  };
}
