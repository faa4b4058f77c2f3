import type { Log } from "../log.ts";
import type { Failure, Message } from "../queue/message.ts";
import type { Queue } from "../queue/queue.ts";
import { describeQueueError } from "../queue/request.ts";
import type { Order, Recorded, Store } from "../store/store.ts";
import type { ConsumerMetrics } from "./metrics.ts";
import { type OnValueMismatch, validateOrder } from "./order.ts";
import type { Outcomes, Processed } from "./outcomes.ts";
import { pause } from "./retry.ts";
import type { StoreAvailability } from "./store-availability.ts";

export interface ConsumerDeps {
  queue: Queue;
  store: Store;
  /** The store's `record`, or one that combines the batches of several receive loops. */
  record: Store["record"];
  availability: StoreAvailability;
  outcomes: Outcomes;
  metrics: ConsumerMetrics;
  log: Log;
  /** @returns the dependencies for one batch, with spans around its requests. Absent: tracing is off */
  traced?(deps: ConsumerDeps, messages: readonly Message[]): ConsumerDeps;
  onValueMismatch: OnValueMismatch;
}

/** A message with a valid order. */
interface Valid {
  message: Message;
  order: Order;
  /** Set for a corrected order: its `order_value` as sent. */
  declared?: number;
}

type Rejected = Processed & Required<Pick<Processed, "reason" | "errors">>;

/**
 * Validates and records one batch of messages.
 *
 * No message is deleted before its order is in the store or its copy is in the dead-letter queue. If the process dies on any
 * line, the messages are delivered again, and the markers make orders that were counted duplicates.
 *
 * @param shutdown aborts waiting for an unavailable store; messages that are not recorded are returned to the queue
 * @returns the messages that may be deleted
 */
export async function processBatch(
  deps: ConsumerDeps,
  messages: readonly Message[],
  shutdown: AbortSignal,
): Promise<Processed[]> {
  const { valid, rejected } = validateAll(messages, deps.onValueMismatch);
  const [recorded, deadLettered] = await Promise.all([
    recordOrRelease(deps, valid, messages, shutdown),
    deadLetter(deps, rejected),
  ]);
  const processed = [...recorded, ...deadLettered];
  deps.outcomes.report(processed);
  return processed;
}

function validateAll(messages: readonly Message[], onValueMismatch: OnValueMismatch) {
  const valid: Valid[] = [];
  const rejected: Rejected[] = [];
  for (const message of messages) {
    const result = validateOrder(message.body, onValueMismatch);
    if (result.outcome === "rejected") rejected.push({ message, ...result });
    else valid.push({ message, ...result });
  }
  return { valid, rejected };
}

/**
 * Records the valid orders. While the store is unavailable, keeps the whole batch invisible and retries until it is recorded. At
 * shutdown, returns the messages to the queue.
 */
async function recordOrRelease(
  deps: ConsumerDeps,
  valid: readonly Valid[],
  batch: readonly Message[],
  shutdown: AbortSignal,
): Promise<Processed[]> {
  if (valid.length === 0) return [];
  const results = await record(deps, valid, deps.record).catch(async (error) => {
    const recorded = retryUntilRecorded(deps, valid, error, shutdown);
    await keepInvisible(deps, batch, recorded);
    return await recorded;
  });
  if (results) return valid.flatMap((one, index) => toProcessed(deps, one, results[index] as Recorded));
  await release(deps, valid);
  return [];
}

async function record({ metrics }: ConsumerDeps, valid: readonly Valid[], send: Store["record"]) {
  const stopTimer = metrics.applySeconds.startTimer();
  const results = await send(valid.map(({ order }) => order));
  stopTimer();
  return results;
}

function toProcessed({ log }: ConsumerDeps, { message, order, declared }: Valid, result: Recorded): Processed[] {
  const { id: orderId, userId, cents } = order;
  if (result === "refused") {
    // The message stays in the queue, and its redrive policy limits the retries.
    const reason = "the Redis key of its user contains data of another program";
    log.error({ event: "order_refused", order_id: orderId, user_id: userId, message_id: message.id, reason });
    return [];
  }
  if (result === "duplicate") return [{ message, outcome: "duplicate", orderId, userId }];
  if (declared === undefined) return [{ message, outcome: "counted", orderId, userId }];
  return [{ message, outcome: "corrected", orderId, userId, declared, cents }];
}

/**
 * Retries a batch until it is recorded. The batch that made the store unavailable keeps retrying; the others wait until it
 * succeeds.
 *
 * @returns undefined at shutdown
 */
async function retryUntilRecorded(
  deps: ConsumerDeps,
  valid: readonly Valid[],
  failure: unknown,
  shutdown: AbortSignal,
): Promise<Recorded[] | undefined> {
  const { availability, store } = deps;
  // Not `deps.record`, which combines batches: one invalid batch would make all of them fail.
  const attempt = () => record(deps, valid, store.record);
  for (let error = failure; !shutdown.aborted; ) {
    if (availability.fail(error)) return await availability.retry(attempt);
    await availability.whenAvailable();
    if (shutdown.aborted) return;
    try {
      return await attempt();
    } catch (next) {
      error = next;
    }
  }
}

/** Extends the visibility timeout of the batch until `recorded` settles. */
async function keepInvisible({ queue, log }: ConsumerDeps, batch: readonly Message[], recorded: Promise<unknown>) {
  const { visibilityTimeoutSeconds } = queue.address;
  const done = new AbortController();
  const finished = recorded.finally(() => done.abort()).catch(() => {});
  let failed = false;
  while (!done.signal.aborted) {
    const failures = await queue.changeVisibility(batch, visibilityTimeoutSeconds).catch(allFailed(batch));
    // Logged once. Messages that become visible are delivered again, and their orders are duplicates once recorded.
    if (failures.length > 0 && !failed) log.warn({ event: "hold_failed", ...summary(failures) });
    failed ||= failures.length > 0;
    // Up to three attempts before the messages become visible.
    await pause(Math.max(1, visibilityTimeoutSeconds / 3) * 1000, done.signal);
  }
  await finished;
}

/** Returns the messages to the queue, visible at once. */
async function release({ queue, log }: ConsumerDeps, valid: readonly Valid[]) {
  const messages = valid.map(({ message }) => message);
  const failures = await queue.changeVisibility(messages, 0).catch(allFailed(messages));
  // If this fails, they become visible after the visibility timeout.
  if (failures.length > 0) log.warn({ event: "release_failed", ...summary(failures) });
}

/** Copies rejected messages to the dead-letter queue. @returns the messages that were copied; the others are delivered again */
async function deadLetter({ queue, log }: ConsumerDeps, rejected: readonly Rejected[]): Promise<Rejected[]> {
  if (rejected.length === 0) return [];
  const failures = await queue.deadLetter(rejected).catch(allFailed(rejected.map(({ message }) => message)));
  logFailures(log, "dead_letter_failed", failures, rejected);
  const failed = new Set(failures.map(({ message }) => message));
  return rejected.filter(({ message }) => !failed.has(message));
}

/**
 * Deletes processed messages and logs those that were not deleted: they are delivered again, and their orders are duplicates.
 *
 * @throws an Error if the whole request fails
 */
export async function deleteProcessed({ queue, log }: ConsumerDeps, processed: readonly Processed[]) {
  const failures = await queue.delete(processed.map(({ message }) => message));
  logFailures(log, "delete_failed", failures, processed);
}

/** Converts the error of a whole request to one failure per message. */
const allFailed = (messages: readonly Message[]) => (error: unknown) =>
  messages.map((message): Failure => ({ message, reason: describeQueueError(error) }));

function logFailures(log: Log, event: string, failures: readonly Failure[], batch: readonly Processed[]) {
  for (const { message, reason } of failures) {
    const orderId = batch.find((one) => one.message === message)?.orderId;
    log.warn({ event, message_id: message.id, order_id: orderId, reason });
  }
}

/** Fields of one log line for a batch, whose messages almost always fail for the same reason. */
const summary = (failures: readonly Failure[]) => ({
  message_ids: failures.map(({ message }) => message.id),
  reason: failures[0]?.reason,
});
