import { setTimeout } from "node:timers/promises";

interface RetryPolicy {
  /** The pause after the first failure. */
  firstMs: number;
  /** The longest pause. */
  maxMs: number;
}

/** What the consumer retries. The pause doubles with every consecutive failure. */
export const RETRY = {
  /** Short, so that counting resumes within a second after the store has recovered. */
  store: { firstMs: 50, maxMs: 500 },
  /** Short, so that /health reports a recovery within two seconds. While polls fail, a worker has few receives in flight. */
  poll: { firstMs: 200, maxMs: 1_000 },
  /** Long enough that a worker that crashes at every start does not keep a CPU core busy. */
  workerRestart: { firstMs: 100, maxMs: 10_000 },
} satisfies Record<string, RetryPolicy>;

/** @returns the pause in ms after `failures` consecutive failures, at least 1 */
export const retryPauseMs = ({ firstMs, maxMs }: RetryPolicy, failures: number) =>
  Math.min(firstMs * 2 ** (failures - 1), maxMs);

/** Waits for `ms` plus or minus 25 %, so that many workers do not retry at the same moment. Resolves early when `signal` aborts. */
export async function pause(ms: number, signal: AbortSignal): Promise<void> {
  await setTimeout(ms * (0.75 + Math.random() / 2), undefined, { signal }).catch(() => {});
}
