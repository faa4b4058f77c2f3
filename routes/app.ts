import { createHash, timingSafeEqual } from "node:crypto";
import { Elysia } from "elysia";
import { rateLimit } from "elysia-rate-limit";
import { Registry } from "prom-client";
import type { Log } from "../log.ts";
import type { Reads } from "../store/share.ts";
import type { WholeStore } from "../store/store.ts";
import { dashboardRoutes } from "./dashboard.ts";
import { docsRoutes } from "./docs.ts";
import { eventRoutes } from "./events.ts";
import { type HealthParts, healthRoutes } from "./health.ts";
import { cached, LOOK_DEADLINE_MS, within } from "./look.ts";
import { type MetricsParts, metricsRoutes, requestTimer } from "./metrics.ts";
import type { Monitor } from "./monitor.ts";
import { orderRoutes } from "./orders.ts";
import { errorTable, PROBLEM_TYPE, Problem, problemOf } from "./problem.ts";
import { statsRoutes } from "./stats.ts";
import { userRoutes } from "./users.ts";

export type ApiParts = HealthParts &
  Omit<MetricsParts, "registry"> & {
    log: Log;
    store: WholeStore;
    reads: Reads;
    monitor: Monitor;
    /** Aborted when the process stops: event streams end then. */
    stopping: AbortSignal;
    /** Off: probes and metrics alone. */
    api: "on" | "off";
    apiKey?: string;
    /** Of one client address; no limit where absent. */
    requestsPerMinute?: number;
  };
export type App = ReturnType<typeof createApp>;

/** What Elysia keeps of one answer, with the time its route was found, ms. */
type Timed = { startedAt?: number };

/** Open without a key: a load balancer has none. */
const OPEN_ROUTES = ["/", "/health", "/ready"];
/** For those who ask for what is not there. */
const ADVICE = {
  on: "see /docs for what there is",
  off: "this process counts orders and leaves the API to others (API=off)",
};

/** The whole API; it listens where `index.ts` says. */
export function createApp(parts: ApiParts) {
  const { log, apiKey } = parts;
  // A scrape and a probe at one moment share one look at the queue, and neither waits long for it.
  const depth = cached(() => within(LOOK_DEADLINE_MS, parts.depth()));
  const registry = new Registry();
  const timed = requestTimer(registry);
  const keyFits = authorization(apiKey);
  let routes: { method: string; path: string }[] = [];
  const app = new Elysia({
    // A second process on the port must fail instead of taking half of the requests.
    serve: { reusePort: false, maxRequestBodySize: MAX_BODY_BYTES },
    // The plugin's page is such a response and would win over ours at /docs.
    nativeStaticResponse: false,
    // Otherwise the path is looked for behind the first eleven characters, and a short Host shifts it.
    handler: { standardHostname: false },
  })
    // Asked of the route that was found: what a URL says may be read in two ways.
    .onTransform(({ request, route, set }) => {
      (set as Timed).startedAt = performance.now();
      if (!OPEN_ROUTES.includes(route) && !keyFits(request)) {
        throw new Problem(
          401,
          "This needs the header Authorization: Bearer <API_KEY>, or in a browser the key as password",
        );
      }
    })
    .onError(errorTable(log, () => routes, ADVICE[parts.api]))
    .onAfterResponse(({ request, route, set }) => {
      const now = performance.now();
      // Where there is no route there was nothing to wait for.
      timed(
        route || "unknown",
        request.method,
        `${set.status ?? 200}`,
        (now - ((set as Timed).startedAt ?? now)) / 1000,
      );
    })
    .use(limitRequests(parts.requestsPerMinute))
    .use(healthRoutes({ ...parts, depth }))
    .use(metricsRoutes({ ...parts, depth, registry }))
    // The type is that of the whole either way: clients are typed by it.
    .use(parts.api === "on" ? readerRoutes(parts) : (new Elysia() as unknown as ReturnType<typeof readerRoutes>));
  routes = app.routes;
  return app;
}

/** For those who read the numbers; the other routes are for those who run the process. */
function readerRoutes(parts: ApiParts) {
  return new Elysia({ name: "readers" })
    .use(docsRoutes())
    .use(statsRoutes(parts))
    .use(userRoutes(parts))
    .use(orderRoutes(parts))
    .use(eventRoutes(parts))
    .use(dashboardRoutes());
}

/** Probes are never refused: a load balancer would take the process for dead. */
function limitRequests(max: number | undefined) {
  if (max === undefined) return new Elysia();
  const isProbe = ({ url }: Request) => /^(https?:\/\/[^/?#]*)?\/(health|ready)?$/.test(url);
  // As a response: the plugin adds Retry-After to that only.
  const problem = problemOf(429, `At most ${max} requests a minute: wait for the time in Retry-After`);
  const errorResponse = new Response(problem, { status: 429, headers: { "content-type": PROBLEM_TYPE } });
  return rateLimit({ max, duration: 60_000, scoping: "global", errorResponse, skip: isProbe });
}

/** No route reads a body; this is for a client that sends one all the same. */
const MAX_BODY_BYTES = 64 * 1024;

/** Compares digests in constant time, so that neither the key nor its length can be guessed by timing. */
function authorization(apiKey: string | undefined): (request: Request) => boolean {
  if (apiKey === undefined) return () => true;
  const digest = (text: string) => createHash("sha256").update(text).digest();
  const expected = digest(apiKey);
  return (request) => {
    const [, scheme, credentials = ""] = request.headers.get("authorization")?.match(/^(bearer|basic) (.*)$/i) ?? [];
    if (!scheme) return false;
    // Of Basic (RFC 7617) only the password counts: browsers ask for a user as well.
    const basic = scheme.toLowerCase() === "basic";
    const key = basic
      ? Buffer.from(credentials, "base64")
          .toString()
          .replace(/^[^:]*:/, "")
      : credentials;
    return timingSafeEqual(digest(key), expected);
  };
}
