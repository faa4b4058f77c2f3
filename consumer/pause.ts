import { setTimeout } from "node:timers/promises";

/** Waits for `ms` give or take a quarter, so that many workers do not come back at one moment; ends when aborted. */
export async function pause(ms: number, signal: AbortSignal): Promise<void> {
  await setTimeout(ms * (0.75 + Math.random() / 2), undefined, { signal }).catch(() => {});
}
