import type { Log } from "../log.ts";
import { isFifo } from "../queue/client.ts";
import { type Failure, type Message, originalIdOf } from "../queue/message.ts";
import type { Queue } from "../queue/queue.ts";
import { describeQueueError } from "../queue/request.ts";
import type { Recorded, Store } from "../store/store.ts";
import type { ConsumerMetrics } from "./metrics.ts";
import { type DateCheck, type OnValueMismatch, type ValidationResult, validateOrder } from "./order.ts";
import type { Outcomes, Processed } from "./outcomes.ts";
import { pause } from "./retry.ts";
import type { StoreAvailability } from "./store-availability.ts";
import type { OffsetAt } from "./time-zone.ts";

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
  onImplausibleDate: DateCheck["onImplausibleDate"];
  /** Of the time zone whose days are counted. */
  offsetAt: OffsetAt;
}

/** A message with a valid order. */
interface Valid {
  message: Message;
  result: Exclude<ValidationResult, { outcome: "rejected" }>;
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
  const batch = validateAll(messages, deps);
  const { recorded, rejected } = await recordOrRelease(deps, batch, messages, shutdown);
  const processed = [...recorded, ...(await deadLetter(deps, rejected))];
  deps.outcomes.report(processed);
  return processed;
}

interface Batch {
  valid: Valid[];
  /** If an order with the same id was counted, they are duplicates. */
  rejected: Rejected[];
}

function validateAll(messages: readonly Message[], deps: ConsumerDeps): Batch {
  const { onValueMismatch, onImplausibleDate, offsetAt } = deps;
  const options = { offsetAt, dates: { nowMs: Date.now(), onImplausibleDate } };
  const batch: Batch = { valid: [], rejected: [] };
  for (const message of messages) {
    const result = validateOrder(message.body, onValueMismatch, options);
    if (result.outcome === "rejected") batch.rejected.push({ message, ...result });
    else batch.valid.push({ message, result });
  }
  return batch;
}

/**
 * Records the valid orders, and finds the rejected ones that are duplicates. While the store is unavailable, keeps all messages
 * invisible and retries until it succeeds. At shutdown, returns the messages to the queue.
 *
 * @returns the messages that may be deleted, and the orders that are to be dead-lettered
 */
async function recordOrRelease(
  deps: ConsumerDeps,
  batch: Batch,
  messages: readonly Message[],
  shutdown: AbortSignal,
): Promise<{ recorded: Processed[]; rejected: Rejected[] }> {
  const stored = await store(deps, batch, deps.record).catch(async (error) => {
    const retried = retryUntilStored(deps, batch, error, shutdown);
    await keepInvisible(deps, messages, retried);
    return await retried;
  });
  if (stored) return outcomesOf(deps, batch, stored);
  await setVisibility(deps, messages, 0, "release_failed");
  return { recorded: [], rejected: [] };
}

interface Stored {
  /** Of each valid order. */
  results: Recorded[];
  /** Of each rejected order: whether an order with its id was counted. */
  counted: boolean[];
}

async function store(
  { metrics, store }: ConsumerDeps,
  { valid, rejected }: Batch,
  send: Store["record"],
): Promise<Stored> {
  // Before recording: after a failure both are repeated, and orders that were recorded would then be duplicates.
  const counted = await Promise.all(
    rejected.map(async ({ orderId }) => orderId !== undefined && store.isCounted(orderId)),
  );
  if (valid.length === 0) return { results: [], counted };
  const stopTimer = metrics.applySeconds.startTimer();
  const results = await send(valid.map(({ result }) => result.order));
  stopTimer();
  return { results, counted };
}

function outcomesOf(deps: ConsumerDeps, { valid, rejected }: Batch, { results, counted }: Stored) {
  const recorded = valid.flatMap((one, index) => toProcessed(deps, one, results[index] as Recorded));
  if (rejected.length === 0) return { recorded, rejected };
  const ids = new Set(recorded.map(({ orderId }) => orderId));
  const isDuplicate = ({ orderId }: Rejected, index: number) => counted[index] || ids.has(orderId);
  for (const { message, orderId, userId, envelope } of rejected.filter(isDuplicate))
    recorded.push({ message, outcome: "duplicate", orderId, userId, envelope });
  return { recorded, rejected: rejected.filter((one, index) => !isDuplicate(one, index)) };
}

function toProcessed({ log }: ConsumerDeps, valid: Valid, recorded: Recorded): Processed[] {
  const { message, result } = valid;
  const { envelope, notes } = result;
  const { id: orderId, userId, cents } = result.order;
  if (recorded === "refused") {
    // The message stays in the queue, and its redrive policy limits the retries.
    const reason = "the Redis key of its user contains data of another program";
    const message_id = originalIdOf(message);
    log.error({ event: "order_refused", order_id: orderId, user_id: userId, message_id, reason });
    return [];
  }
  if (recorded === "duplicate") return [{ message, outcome: "duplicate", orderId, userId, envelope }];
  if (result.outcome === "counted") return [{ message, outcome: "counted", orderId, userId, envelope, notes }];
  return [{ message, outcome: "corrected", orderId, userId, declared: result.declared, cents, envelope, notes }];
}

/**
 * Retries a batch until the store succeeds. The batch that made the store unavailable keeps retrying; the others wait until it
 * succeeds.
 *
 * @returns undefined at shutdown
 */
async function retryUntilStored(
  deps: ConsumerDeps,
  batch: Batch,
  failure: unknown,
  shutdown: AbortSignal,
): Promise<Stored | undefined> {
  const { availability } = deps;
  // Not `deps.record`, which combines batches: one invalid batch would make all of them fail.
  const attempt = () => store(deps, batch, deps.store.record);
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

/** Makes messages visible after `seconds`; 0 returns them to the queue. If this fails, their present visibility timeout applies. */
async function setVisibility({ queue, log }: ConsumerDeps, batch: readonly Message[], seconds: number, event: string) {
  const failures = await queue.changeVisibility(batch, seconds).catch(allFailed(batch));
  if (failures.length > 0) log.warn({ event, ...summary(failures) });
}

/** Copies rejected messages to the dead-letter queue. @returns the messages that were copied; the others are delivered again */
async function deadLetter(deps: ConsumerDeps, rejected: readonly Rejected[]): Promise<Rejected[]> {
  const { queue, log } = deps;
  if (rejected.length === 0) return [];
  const dropped = new Map<Message, string[]>();
  const failures = await queue
    .deadLetter(rejected, (message, names) => dropped.set(message, names))
    .catch(allFailed(rejected.map(({ message }) => message)));
  logFailures(log, "dead_letter_failed", failures, rejected);
  if (failures.length > 0) await postpone(deps, failures);
  const failed = new Set(failures.map(({ message }) => message));
  for (const [message, attributes] of dropped)
    if (!failed.has(message)) log.warn({ event: "attributes_dropped", message_id: originalIdOf(message), attributes });
  return rejected.filter(({ message }) => !failed.has(message));
}

/** Rejected messages that cannot be dead-lettered are delivered again after a quarter of an hour at the latest. */
const MAX_POSTPONE_SECONDS = 15 * 60;

/** Doubles the visibility timeout with each receive. Not in a FIFO queue, where an invisible message blocks its message group. */
async function postpone(deps: ConsumerDeps, failures: readonly Failure[]) {
  const { url, visibilityTimeoutSeconds } = deps.queue.address;
  if (isFifo(url)) return;
  const messages = failures.map(({ message }) => message);
  const receives = Math.max(...messages.map(({ receiveCount = 1 }) => receiveCount));
  const seconds = Math.min(visibilityTimeoutSeconds * 2 ** (receives - 1), MAX_POSTPONE_SECONDS);
  await setVisibility(deps, messages, seconds, "postpone_failed");
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
    log.warn({ event, message_id: originalIdOf(message), order_id: orderId, reason });
  }
}

/** Fields of one log line for a batch, whose messages almost always fail for the same reason. */
const summary = (failures: readonly Failure[]) => ({
  message_ids: failures.map(({ message }) => originalIdOf(message)),
  reason: failures[0]?.reason,
});
