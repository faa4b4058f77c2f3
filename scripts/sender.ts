/** Sends messages and adds up their expected outcomes. */

import { setTimeout } from "node:timers/promises";
import type { QueueConfig } from "../config.ts";
import { openQueue, type Queue } from "../queue/queue.ts";
import { locateQueue } from "../queue/setup.ts";
import { formatNumber } from "../text.ts";
import { type GeneratedMessage, isOrder } from "./generator.ts";
import { formatCents } from "./progress.ts";

/** The number of messages, of each expected outcome, and the cents of the counted and corrected orders. */
export type Totals = Record<GeneratedMessage["expected"] | "messages" | "cents", number>;

export interface SendResult {
  /** Of the messages that the queue confirmed. */
  totals: Totals;
  /** The messages of failed requests: none, some or all of them may be in the queue. */
  uncertain: GeneratedMessage[];
  /** Why sending stopped early. */
  error: Error | undefined;
  seconds: number;
}

/** SQS accepts ten messages per request. */
const BATCH_SIZE = 10;
/** Messages sent at the same time: eight batches hide the latency of a real queue. */
const ROUND_SIZE = 8 * BATCH_SIZE;
/** With a rate: even enough, and not a request for each message. */
const ROUNDS_PER_SECOND = 10;

/** Opens the queue that the program reads. */
export async function openConfiguredQueue(config: QueueConfig): Promise<Queue> {
  const { name } = config;
  const embedded = config.kind === "embedded" && { name, endpoint: `http://127.0.0.1:${config.port}`, embedded: true };
  return openQueue(await locateQueue(embedded || { ...config, embedded: false }));
}

/**
 * Sends `orders` messages, `rate` per second (0: as fast as the queue accepts them; a delay is made up for), until a request fails
 * or `signal` aborts. `onProgress` is called with the number of messages confirmed so far.
 *
 * @returns what was sent, with the error of a failed request: it does not throw
 */
export async function sendMessages(
  queue: Queue,
  messages: Iterator<GeneratedMessage, never>,
  { orders, rate }: { orders: number; rate: number },
  signal: AbortSignal,
  onProgress: (messages: number) => void,
): Promise<SendResult> {
  const totals = totalsOf([]);
  const pace = createPace(rate, signal);
  const startedMs = performance.now();
  let failed: Pick<SendResult, "uncertain" | "error"> = { uncertain: [], error: undefined };
  while (totals.messages < orders && !failed.error) {
    await pace.wait(totals.messages);
    if (signal.aborted) break;
    const size = Math.min(pace.roundSize, orders - totals.messages);
    const round = Array.from({ length: size }, () => messages.next().value);
    const { confirmed, uncertain, error } = await sendRound(queue, round);
    addMessages(totals, expectedOf(confirmed, uncertain));
    failed = { uncertain, error };
    onProgress(totals.messages);
  }
  return { totals, ...failed, seconds: (performance.now() - startedMs) / 1000 };
}

/**
 * @returns how many messages to send at the same time, and `wait(sent)`, which resolves when the next ones are due at `rate`
 *   messages per second, or when `signal` aborts. A rate of 0 has no waits
 */
export function createPace(rate: number, signal: AbortSignal) {
  const startedMs = performance.now();
  const roundSize = rate > 0 ? Math.min(ROUND_SIZE, Math.ceil(rate / ROUNDS_PER_SECOND)) : ROUND_SIZE;
  async function wait(sent: number) {
    const waitMs = rate > 0 ? startedMs + (sent / rate) * 1000 - performance.now() : 0;
    // Rejects only when `signal` aborts.
    if (waitMs > 0) await setTimeout(waitMs, undefined, { signal }).catch(() => {});
  }
  return { roundSize, wait };
}

/** @returns the totals of some messages */
export function totalsOf(messages: GeneratedMessage[]): Totals {
  const totals = { messages: 0, counted: 0, corrected: 0, duplicate: 0, rejected: 0, cents: 0 };
  addMessages(totals, messages);
  return totals;
}

export function addMessages(totals: Totals, messages: GeneratedMessage[]) {
  for (const message of messages) {
    totals.messages++;
    totals[message.expected]++;
    if (isOrder(message)) totals.cents += message.cents;
  }
}

/** @returns what messages add to the totals, as a table for people and for JSON */
export function describeGrowth({ cents, counted, corrected, rejected, duplicate: duplicates }: Totals) {
  const orders = counted + corrected;
  const table = [
    `  orders      ${formatNumber(orders)} (${formatNumber(counted)} counted, ${formatNumber(corrected)} corrected)`,
    `  revenue     ${formatCents(cents)}`,
    `  rejected    ${formatNumber(rejected)}`,
    `  duplicates  ${formatNumber(duplicates)}`,
  ];
  return { table, json: { orders, revenue: cents / 100, counted, corrected, rejected, duplicates } };
}

/** Sends messages at the same time. Waits for all batches, also when one fails, so that the result has every message. */
export async function sendRound<M extends Pick<GeneratedMessage, "body" | "userId">>(queue: Queue, messages: M[]) {
  const starts = [...messages.keys()].filter((index) => index % BATCH_SIZE === 0);
  const batches = starts.map((start) => messages.slice(start, start + BATCH_SIZE));
  const sending = batches.map(async (batch) => {
    const bodies = batch.map(({ body }) => body);
    const groupIds = batch.map(({ userId }) => groupIdOf(userId));
    await queue.send(bodies, groupIds);
  });
  const results = await Promise.allSettled(sending);
  const failure = results.find((result) => result.status === "rejected");
  const withStatus = (status: string) => batches.filter((_, index) => results[index]?.status === status).flat();
  return {
    confirmed: withStatus("fulfilled"),
    uncertain: withStatus("rejected"),
    error: failure?.reason as Error | undefined,
  };
}

/** SQS accepts printable ASCII as a group id. Other user ids are replaced by their digest. */
const groupIdOf = (userId: string) =>
  /^[!-~]{1,128}$/.test(userId) ? userId : new Bun.CryptoHasher("sha256").update(userId).digest("hex");

/** If an order is uncertain and a copy of it is confirmed, the copy counts as the order. */
function expectedOf(confirmed: GeneratedMessage[], uncertain: GeneratedMessage[]): GeneratedMessage[] {
  const missing = new Map(uncertain.filter(isOrder).map((message) => [message.orderId, message]));
  return confirmed.map((message) => {
    const original = missing.get(message.orderId);
    missing.delete(message.orderId);
    return original ?? message;
  });
}
