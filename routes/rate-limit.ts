import { Problem } from "./problem.ts";

const WINDOW_MS = 60_000;
/** Bounds the memory to some 20 MB. The client that was counted first is forgotten first. */
const MAX_CLIENTS = 100_000;
/** Probes are not limited, because a load balancer would stop sending requests to this process. */
const PROBES = /^(https?:\/\/[^/?#]*)?\/(health|ready)?$/;

/** @returns the counts of all clients in the current minute. `check` throws a `Problem` with status 429 for one that has reached `max` */
export function createLimiter(max: number, detail: string) {
  let counts = new Map<string, number>();
  let endsAt = Number.NEGATIVE_INFINITY;

  function check(client: string) {
    const remainingMs = endsAt - performance.now();
    if (remainingMs <= 0 || (counts.get(client) ?? 0) < max) return;
    throw new Problem(429, detail, { retryAfterSeconds: Math.ceil(remainingMs / 1000) });
  }

  function add(client: string) {
    if (performance.now() >= endsAt) {
      counts = new Map();
      endsAt = performance.now() + WINDOW_MS;
    }
    const [first] = counts.keys();
    if (first !== undefined && counts.size >= MAX_CLIENTS && !counts.has(client)) counts.delete(first);
    counts.set(client, (counts.get(client) ?? 0) + 1);
  }

  return { check, add };
}

/** @returns a function that counts a request, unless it is a probe, and throws a `Problem` with status 429 for one too many */
export function createRequestLimit(requestsPerMinute: number | undefined): (request: Request, server: Server) => void {
  if (requestsPerMinute === undefined) return () => {};
  const detail = `At most ${requestsPerMinute} requests per minute are allowed. Wait for the time in Retry-After`;
  const limiter = createLimiter(requestsPerMinute, detail);
  return (request, server) => {
    if (PROBES.test(request.url)) return;
    const client = clientOf(request, server);
    limiter.check(client);
    limiter.add(client);
  };
}

export type Server = Pick<Bun.Server<unknown>, "requestIP"> | null;

/**
 * @returns the client of a request: the IPv4 address of its connection, or the /64 network, since a client of IPv6 has a whole one.
 *   `X-Forwarded-For` is ignored, because clients can send any value
 */
export function clientOf(request: Request, server: Server): string {
  const address = (server?.requestIP(request)?.address ?? "").replace(/^::ffff:(?=[\d.]+$)/i, "");
  const [head = [], tail = []] = address.split("::").map((groups) => groups.split(":"));
  const zeros = address.includes("::") ? new Array(8 - head.length - tail.length).fill("0") : [];
  return [...head, ...zeros, ...tail].slice(0, 4).join(":");
}
