import { type AnyElysia, Elysia } from "elysia";
import { Registry } from "prom-client";
import { cachedFor } from "../deadline.ts";
import { messageOf } from "../errors.ts";
import type { Log } from "../log.ts";
import { createOutageLog } from "../outage-log.ts";
import type { Reads } from "../store/single-flight.ts";
import type { FullStore } from "../store/store.ts";
import { createAuth } from "./auth.ts";
import { dashboardRoutes } from "./dashboard.ts";
import { docsRoutes } from "./docs.ts";
import { eventRoutes } from "./events.ts";
import { type HealthDeps, healthRoutes, PROBE_CACHE_MS, PROBE_DEADLINE_MS } from "./health.ts";
import { createHostCheck } from "./host-check.ts";
import type { Live } from "./live.ts";
import { createRequestTimer, type MetricsDeps, metricsRoutes } from "./metrics.ts";
import { orderRoutes } from "./orders.ts";
import { errorTable } from "./problem.ts";
import { createQueryCheck } from "./query.ts";
import { createRequestLimit, type Server } from "./rate-limit.ts";
import { statsRoutes } from "./stats.ts";
import { userRoutes } from "./users.ts";

export type ApiDeps = HealthDeps &
  Omit<MetricsDeps, "registry"> & {
    log: Log;
    store: FullStore;
    /** IANA name. Its date is the current one. */
    timeZone: string;
    reads: Reads;
    live: Live;
    /** Aborted at shutdown: event streams must end. */
    stopping: AbortSignal;
    /** The address that the API listens on. */
    host: string;
    /** Absent: no authorization. */
    apiKey?: string;
    /** Limit per client address. Absent: no limit. */
    requestsPerMinute?: number;
  };
export type App = ReturnType<typeof createApp>;

/** No route reads a body, so larger ones are rejected. */
const MAX_BODY_BYTES = 64 * 1024;

/** Our field in Elysia's `set` of a request: when its route was matched, ms. */
type Timed = { startedAt?: number };

/** @returns the API as an Elysia app that does not listen yet */
export function createApp(deps: ApiDeps) {
  // /metrics and /health share one read of the queue depth, with a deadline.
  const outage = createOutageLog(deps.log, { failed: "queue_unavailable", recovered: "queue_available" });
  const depth = cachedFor(PROBE_CACHE_MS, async () => {
    try {
      const read = await deps.depth(PROBE_DEADLINE_MS);
      if (read.deadLetterProblem) outage.failed(`dead-letter queue ${read.deadLetterProblem}`);
      else outage.succeeded();
      return read;
    } catch (error) {
      outage.failed(`queue ${messageOf(error)}`);
      throw error;
    }
  });
  const registry = new Registry();
  const observe = createRequestTimer(registry);
  const checkHost = createHostCheck(deps.host);
  const limitRequests = createRequestLimit(deps.requestsPerMinute);
  const authorize = createAuth(deps.apiKey);
  let routes: AnyElysia["routes"] = [];
  const checkQuery = createQueryCheck(() => routes);
  // For hooks that take `server` from the context, Elysia defines it anew in every context, which costs 0.3 µs a request.
  const server = (): Server => app.server;
  const app = new Elysia({
    // A second process must not be able to listen on the same port and receive a part of the requests.
    serve: { reusePort: false, maxRequestBodySize: MAX_BODY_BYTES },
    // The page of the swagger plugin is a static response and would replace ours at /docs.
    nativeStaticResponse: false,
    // Otherwise Elysia searches the path from the twelfth character of the URL on, which is wrong for a short Host header.
    handler: { standardHostname: false },
  })
    // Before the route is matched, so that requests without a route and with a wrong method are checked and counted as well.
    .onRequest(({ request }) => {
      checkHost(request);
      limitRequests(request, server());
    })
    .onTransform(({ request, route, set }) => {
      (set as Timed).startedAt = performance.now();
      authorize(request, route, server());
      checkQuery(request.url, route);
    })
    .onError(errorTable(deps.log, () => routes))
    .onAfterResponse(({ request, route, set }) => {
      const now = performance.now();
      // A request without a matching route has no start time and is counted with zero seconds.
      const seconds = (now - ((set as Timed).startedAt ?? now)) / 1000;
      observe(route || "unknown", request.method, `${set.status ?? 200}`, seconds);
    })
    .use(healthRoutes({ ...deps, depth }))
    .use(metricsRoutes({ ...deps, depth, registry }))
    .use(docsRoutes(deps))
    .use(statsRoutes(deps))
    .use(userRoutes(deps))
    .use(orderRoutes(deps))
    .use(eventRoutes(deps))
    .use(dashboardRoutes());
  routes = app.routes;
  return app;
}
