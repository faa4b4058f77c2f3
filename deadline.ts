/**
 * Runs one request with a deadline, for clients that have none: the AWS SDK and `fetch` wait for ever. Aborts the request, and
 * its connection, after `deadlineMs` or when `signal` aborts.
 *
 * @returns what the request returns
 * @throws an Error "no response within … s" after `deadlineMs`, or whatever the request throws
 */
export async function withDeadline<T>(
  deadlineMs: number,
  signal: AbortSignal | undefined,
  request: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  // Not AbortSignal.timeout: its timer outlives the response, so thousands of requests a second would accumulate timers.
  const controller = new AbortController();
  // Reject even if the request ignores the signal: a credential provider can hang before the first byte is sent.
  const { promise: aborted, reject } = Promise.withResolvers<never>();
  let timedOut = false;
  function abort() {
    controller.abort();
    reject(new Error("aborted"));
  }
  const timer = setTimeout(() => {
    timedOut = true;
    abort();
  }, deadlineMs);
  signal?.addEventListener("abort", abort, { once: true });
  if (signal?.aborted) abort();
  try {
    return await Promise.race([request(controller.signal), aborted]);
  } catch (error) {
    throw timedOut ? new Error(`no response within ${deadlineMs / 1000} s`, { cause: error }) : error;
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", abort);
  }
}

/**
 * @returns a function that calls `read` at most once in `forMs` milliseconds. Other callers share the promise of the last call,
 *   including its rejection.
 */
export function cachedFor<T>(forMs: number, read: () => Promise<T>): () => Promise<T> {
  let last: Promise<T> | undefined;
  let readAt = 0;
  return () => {
    if (!last || performance.now() - readAt > forMs) {
      readAt = performance.now();
      last = read();
    }
    return last;
  };
}
