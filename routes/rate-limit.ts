import { Elysia } from "elysia";
import { rateLimit } from "elysia-rate-limit";
import { PROBLEM_TYPE, problemBody } from "./problem.ts";

/** Probes are not limited, because a load balancer would stop sending requests to this process. */
const PROBES = /^(https?:\/\/[^/?#]*)?\/(health|ready)?$/;

/** @returns a plugin that limits the requests of each client address; without `requestsPerMinute` it does nothing */
export function limitRequests(requestsPerMinute: number | undefined) {
  if (requestsPerMinute === undefined) return new Elysia();
  const detail = `At most ${requestsPerMinute} requests per minute are allowed. Wait for the time in Retry-After`;
  return rateLimit({
    max: requestsPerMinute,
    duration: 60_000,
    scoping: "global",
    // The plugin adds Retry-After only to a Response.
    errorResponse: new Response(problemBody(429, detail), { status: 429, headers: { "content-type": PROBLEM_TYPE } }),
    skip: ({ url }) => PROBES.test(url),
  });
}
