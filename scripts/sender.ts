/** Sends generated messages and keeps account of what they must lead to. */

import { setTimeout } from "node:timers/promises";
import type { Queue } from "../queue/queue.ts";
import { type GeneratedMessage, isOrder } from "./generator.ts";

/** What messages lead to: how many of each outcome, and the cents of the counted and corrected ones. */
export type Totals = Record<GeneratedMessage["expected"] | "messages" | "cents", number>;

export interface Sent {
  /** Of the messages that the queue confirmed, and only of those. */
  totals: Totals;
  /** Their request failed: none, some or all of them may be in the queue. */
  uncertain: GeneratedMessage[];
  /** Why the sending ended early. */
  error?: Error;
  seconds: number;
}

/** SQS takes ten messages a request. */
const BATCH_SIZE = 10;
/** Eight batches in flight hide the network of a real queue; the embedded one is no faster with more. */
const WAVE_SIZE = 8 * BATCH_SIZE;
/** With a rate, orders leave at most ten times a second: even enough, without a request for each. */
const WAVES_PER_SECOND = 10;

/**
 * Sends `orders` messages, `rate` a second (0: as fast as the queue takes them; what falls behind is made up for),
 * until one fails or `signal` ends it. Failures are answered, not thrown.
 */
export async function sendMessages(
  queue: Queue,
  messages: Iterator<GeneratedMessage, never>,
  { orders, rate }: { orders: number; rate: number },
  signal: AbortSignal,
  onProgress: (messages: number) => void,
): Promise<Sent> {
  const totals = createTotals();
  const waveSize = rate > 0 ? Math.min(WAVE_SIZE, Math.ceil(rate / WAVES_PER_SECOND)) : WAVE_SIZE;
  const startedMs = performance.now();
  const next = () => messages.next().value;
  let wave: Wave = { arrived: [], uncertain: [] };
  while (totals.messages < orders && !wave.error) {
    if (rate > 0) await pauseUntil(startedMs + (totals.messages / rate) * 1000, signal);
    if (signal.aborted) break;
    const size = Math.min(waveSize, orders - totals.messages);
    wave = await sendWave(queue, Array.from({ length: size }, next));
    addWave(totals, wave);
    onProgress(totals.messages);
  }
  const { uncertain, error } = wave;
  return { totals, uncertain, ...(error && { error }), seconds: (performance.now() - startedMs) / 1000 };
}

/** Totals of nothing. */
export function createTotals(): Totals {
  return { messages: 0, counted: 0, corrected: 0, duplicate: 0, rejected: 0, cents: 0 };
}

/** Adds one message and what it leads to. */
export function addMessage(totals: Totals, message: GeneratedMessage) {
  totals.messages++;
  totals[message.expected]++;
  if (isOrder(message)) totals.cents += message.cents;
}

type Wave = Pick<Sent, "uncertain" | "error"> & { arrived: GeneratedMessage[] };

/** Waits for every batch, so that all is known of one wave before the next. */
async function sendWave(queue: Queue, messages: GeneratedMessage[]): Promise<Wave> {
  const wave: Wave = { arrived: [], uncertain: [] };
  const starts = messages.flatMap((_, index) => (index % BATCH_SIZE === 0 ? index : []));
  const sending = starts.map(async (start) => {
    const batch = messages.slice(start, start + BATCH_SIZE);
    try {
      await queue.send(
        batch.map(({ body }) => body),
        batch.map(({ userId }) => userId),
      );
      wave.arrived.push(...batch);
    } catch (error) {
      wave.uncertain.push(...batch);
      wave.error = error as Error;
    }
  });
  await Promise.all(sending);
  return wave;
}

/** Where an order is uncertain but its copy arrived, the copy counts: both are of one wave, since waves are whole. */
function addWave(totals: Totals, { arrived, uncertain }: Wave) {
  const missing = new Map(uncertain.filter(isOrder).map((message) => [message.orderId, message]));
  for (const message of arrived) {
    addMessage(totals, missing.get(message.orderId) ?? message);
    missing.delete(message.orderId);
  }
}

async function pauseUntil(atMs: number, signal: AbortSignal) {
  const waitMs = atMs - performance.now();
  // Rejects only when aborted, and the caller looks at the signal next.
  if (waitMs > 0) await setTimeout(waitMs, undefined, { signal }).catch(() => {});
}
