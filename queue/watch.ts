import type { QueueAddress } from "./client.ts";
import { locateQueue, type QueueName } from "./setup.ts";

/** How often the settings of the queue are read again. */
const LOCATE_INTERVAL_MS = 2 * 60_000;
/** How often it is checked whether the queue is lost. This sends no request. */
const LOST_INTERVAL_MS = 1_000;

/**
 * Locates the queue again every two minutes, and whenever it is lost: an emulator forgets its queues when it restarts, and an
 * operator may delete a queue, or change its redrive policy. A queue given by name is then created again.
 *
 * @param isLost returns whether requests fail because the queue does not exist
 * @param outage is called after each attempt
 * @param onChange is called with the address when it has changed
 * @returns a function that stops it
 */
export function watchQueue(
  wanted: QueueName,
  address: QueueAddress,
  isLost: () => boolean,
  outage: { failed(error: unknown): void; succeeded(): void },
  onChange: (address: QueueAddress) => void,
  intervalMs = LOCATE_INTERVAL_MS,
): () => void {
  let known = JSON.stringify(address);
  let locatedAt = performance.now();
  let locating = false;

  async function check() {
    if (locating || (performance.now() - locatedAt < intervalMs && !isLost())) return;
    locating = true;
    await locateQueue(wanted).then(located).catch(outage.failed);
    locatedAt = performance.now();
    locating = false;
  }

  function located(found: QueueAddress) {
    outage.succeeded();
    const text = JSON.stringify(found);
    if (text !== known) onChange(found);
    known = text;
  }

  const timer = setInterval(() => void check(), LOST_INTERVAL_MS);
  return () => clearInterval(timer);
}
