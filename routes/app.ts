import { createHash, timingSafeEqual } from "node:crypto";
import { Elysia } from "elysia";
import type { Log } from "../log.ts";
import { docsRoutes } from "./docs.ts";
import { type HealthParts, healthRoutes } from "./health.ts";
import { type MetricsParts, metricsRoutes, requestHistogram } from "./metrics.ts";
import { answerProblem, errorTable } from "./problem.ts";
import { statsRoutes } from "./stats.ts";
import { userRoutes } from "./users.ts";

export type ApiParts = HealthParts & MetricsParts & { log: Log; apiKey?: string };
export type App = ReturnType<typeof createApp>;

/** Open without a key: a load balancer has none. */
const OPEN_PATHS = ["/", "/health", "/ready"];

/** The whole API; it listens where `index.ts` says. */
export function createApp(parts: ApiParts) {
  const { log, apiKey, registry } = parts;
  const duration = requestHistogram(registry);
  const startedAt = new WeakMap<Request, number>();
  const mayPass = authorization(apiKey);
  let routes: { method: string; path: string }[] = [];
  const app = new Elysia({
    // A second process on the port must fail instead of taking half of the requests.
    serve: { reusePort: false },
    // The plugin's page is such a response and would win over ours at /docs.
    nativeStaticResponse: false,
  })
    .onRequest(({ request, set }) => {
      startedAt.set(request, performance.now());
      if (!mayPass(request)) return answerProblem(set, 401, "This needs the header Authorization: Bearer <API_KEY>");
    })
    .onError(errorTable(log, () => routes))
    .onAfterResponse(({ request, route, set }) => {
      const seconds = (performance.now() - (startedAt.get(request) ?? performance.now())) / 1000;
      duration.observe({ route: route || "unknown", method: request.method, status: `${set.status ?? 200}` }, seconds);
    })
    .use(docsRoutes())
    .use(healthRoutes(parts))
    .use(statsRoutes(parts))
    .use(userRoutes(parts))
    .use(metricsRoutes(parts));
  routes = app.routes;
  return app;
}

/** Compares digests in constant time, so that neither the key nor its length can be guessed by timing. */
function authorization(apiKey: string | undefined): (request: Request) => boolean {
  if (apiKey === undefined) return () => true;
  const digest = (text: string) => createHash("sha256").update(text).digest();
  const expected = digest(`Bearer ${apiKey}`);
  return (request) =>
    OPEN_PATHS.includes(pathOf(request)) ||
    timingSafeEqual(digest(request.headers.get("authorization") ?? ""), expected);
}

/** A request without a Host header, as some load balancers send, has no more than its path as URL. */
function pathOf({ url }: Request): string {
  return URL.parse(url)?.pathname ?? url.split("?")[0] ?? "";
}
