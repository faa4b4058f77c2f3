/** A load balancer's probe gives up after a few seconds; an honest "no" must come before that. */
export const LOOK_DEADLINE_MS = 2_000;
/** Many probes share one look: a look at everything costs a write and two requests. */
const CACHE_MS = 500;

/** The answer, or a rejection when it takes longer than `deadlineMs`. */
export async function within<T>(deadlineMs: number, answer: Promise<T>): Promise<T> {
  const { promise, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(() => reject(new Error(`no answer within ${deadlineMs / 1000} s`)), deadlineMs);
  try {
    return await Promise.race([answer, promise]);
  } finally {
    clearTimeout(timer);
  }
}

/** Looks at most once in `forMs` and answers everybody else with the last look. */
export function cached<T>(look: () => Promise<T>, forMs = CACHE_MS): () => Promise<T> {
  let last: Promise<T> | undefined;
  let lookedAt = 0;
  return () => {
    if (!last || performance.now() - lookedAt > forMs) {
      lookedAt = performance.now();
      last = look();
    }
    return last;
  };
}
