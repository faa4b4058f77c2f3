/** A receive that finds messages takes some ten milliseconds. Differences below a second are no sign of a slow server. */
const SLOW_MS = 1_000;
/** Beyond the wait time, a receive may take four times as long as the last one that found messages, within these limits. */
const [MIN_GRACE_MS, MAX_GRACE_MS] = [5_000, 25_000];
/** Far enough from the longest deadline that another receive in flight, here or in another worker, does not exceed it. */
const MAX_TARGET_MS = 10_000;
/** Bytes of message bodies that one worker receives at a time: ten messages of the largest size, 1 MiB. */
const MAX_BODY_BYTES = 10 * 1024 * 1024;

/**
 * Limits how many receives of a worker are in flight, and how long each may take.
 *
 * - A server that handles one request after another gets slower with each receive in flight. An abandoned receive is worse: its
 *   messages stay invisible until the visibility timeout ends. So the limit is the number of receives at which one takes twice as
 *   long as a single one, and a failed receive halves it.
 * - Large messages need memory, so the limit also falls with the size of the batches.
 */
export function createReceiveLimit(max: number) {
  let limit = max;
  // Until a receive has shown how fast the server is.
  let graceMs = 2 * MIN_GRACE_MS;
  let fastestMs = Number.POSITIVE_INFINITY;
  let batchBytes = 0;

  /** Is called after each receive that found a full batch, with the number of receives that were in flight. */
  function received(ms: number, bytes: number, inFlight: number) {
    fastestMs = inFlight === 1 ? ms : Math.min(ms, fastestMs);
    const targetMs = Math.min(Math.max(SLOW_MS, 2 * fastestMs), MAX_TARGET_MS);
    limit = ms > targetMs ? Math.max(1, Math.floor((inFlight * targetMs) / ms)) : Math.min(max, limit + 1);
    graceMs = Math.min(Math.max(MIN_GRACE_MS, 4 * ms), MAX_GRACE_MS);
    // Falls slowly, because a batch of small messages may be followed by large ones.
    batchBytes = Math.max(bytes, batchBytes * 0.95);
  }

  function failed(ms: number, inFlight: number) {
    limit = Math.max(1, Math.floor(inFlight / 2));
    if (ms >= graceMs) graceMs = Math.min(2 * graceMs, MAX_GRACE_MS);
  }

  return {
    received,
    failed,
    receives: () => Math.min(limit, Math.max(1, Math.floor(MAX_BODY_BYTES / Math.max(1, batchBytes)))),
    /** How long a receive may take beyond its wait time. */
    graceMs: () => graceMs,
  };
}
