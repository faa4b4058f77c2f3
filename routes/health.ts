import { Elysia } from "elysia";
import Type from "typebox";
import { cachedFor, withDeadline } from "../deadline.ts";
import { messageOf } from "../errors.ts";
import { version } from "../package.json";
import type { Queue } from "../queue/queue.ts";
import { withoutDetails } from "../queue/request.ts";
import type { DataLoss } from "../store/data-loss.ts";
import type { Store } from "../store/store.ts";
import type { WorkerStatus } from "../worker-status.ts";
import { OneOf, operation, Text } from "./openapi.ts";

/** A probe of a load balancer times out after a few seconds. The response must be sent before that. */
export const PROBE_DEADLINE_MS = 2_000;
/** Concurrent probes share one check, which needs a write to the store and two SQS requests. */
export const PROBE_CACHE_MS = 500;

export interface HealthDeps {
  dataLoss: DataLoss;
  store: Store;
  storeKind: "redis" | "cluster" | "sqlite";
  depth: Queue["depth"];
  workers: () => WorkerStatus[];
}

/** @returns the routes of the entry point, health and readiness */
export function healthRoutes(deps: HealthDeps) {
  const health = cachedFor(PROBE_CACHE_MS, () => checkAll(deps));
  return new Elysia({ name: "health" })
    .get("/", () => WELCOME, { detail: welcomeDetail })
    .get(
      "/health",
      async ({ set }) => {
        const result = await health();
        set.status = result.status === "unhealthy" ? 503 : 200;
        set.headers["cache-control"] = "no-store";
        return result;
      },
      { detail: healthDetail },
    )
    .get(
      "/ready",
      async ({ set }) => {
        const { services, problems } = await health();
        const ready = services.redis !== "disconnected";
        set.status = ready ? 200 : 503;
        set.headers["cache-control"] = "no-store";
        return { status: ready ? "ready" : "not ready", ...(!ready && { problems }) };
      },
      { detail: readyDetail },
    );
}

async function checkAll({ store, storeKind, depth, workers, dataLoss }: HealthDeps) {
  const [storeProblem, read] = await Promise.all([
    withDeadline(PROBE_DEADLINE_MS, undefined, store.check).then(() => undefined, messageOf),
    depth().catch(messageOf),
  ]);
  const [queueProblem, deadLetterProblem] = typeof read === "string" ? [read] : [undefined, read.deadLetterProblem];
  const workerProblems = workers().flatMap(({ state, reason }, index) =>
    state === "running" && !reason ? [] : [`worker ${index + 1} is ${state}: ${reason ?? "not ready yet"}`],
  );
  const failures = [
    ...(storeProblem ? [`store: ${storeProblem}`] : []),
    ...(queueProblem ? [`queue ${queueProblem}`] : []),
    ...workerProblems,
  ];
  const warnings = deadLetterProblem ? [`dead-letter queue ${deadLetterProblem}`] : [];
  const problems = [...failures, ...warnings, ...dataLoss.problems()].map(withoutDetails);
  const connected = storeKind === "sqlite" ? "embedded" : "connected";
  return {
    status: failures.length > 0 ? "unhealthy" : problems.length > 0 ? "degraded" : "healthy",
    services: {
      redis: storeProblem ? "disconnected" : connected,
      api: "running",
      queue: queueProblem ? "disconnected" : "connected",
      consumers: workers().length === 0 ? "none" : workerProblems.length > 0 ? "failing" : "running",
    },
    ...(problems.length > 0 && { problems }),
  };
}

const WELCOME = {
  message: "Welcome to Qyrus Assignment API",
  version,
  docs: "/docs",
  health: "/health",
  dashboard: "/dashboard",
};

const welcomeDetail = operation("service", "Entry point with links", {
  name: "Welcome",
  isPublic: true,
  response: Type.Object({
    message: Text(WELCOME.message),
    version: Text(WELCOME.version),
    docs: Text("/docs"),
    health: Text("/health"),
    dashboard: Text("/dashboard"),
  }),
});
const healthDetail = operation("service", "Health of the store, the queue and the consumers", {
  name: "Health",
  isPublic: true,
  description:
    "`degraded` (200): orders are counted, but the dead-letter queue is unavailable, or the store has lost data since this " +
    "process started. `problems` has the reasons, without the texts of SQS, which name accounts and roles: the log has those.",
  response: Type.Object({
    status: OneOf(["healthy", "degraded", "unhealthy"]),
    services: Type.Object({
      redis: OneOf(["connected", "embedded", "disconnected"]),
      api: OneOf(["running"]),
      queue: OneOf(["connected", "disconnected"]),
      consumers: OneOf(["running", "failing", "none"]),
    }),
    problems: Type.Optional(
      Type.Array(Type.String({ description: "The cause of a problem and what to do; absent if healthy" })),
    ),
  }),
  unavailable: "The store or the queue is unavailable, or a consumer is stuck. `problems` has the reasons",
});
const readyDetail = operation("service", "Whether this process can serve requests", {
  name: "Readiness",
  isPublic: true,
  description:
    "For load balancers. Without a queue and with stuck consumers the process can still serve requests: see /health.",
  response: Type.Object({ status: OneOf(["ready", "not ready"]) }),
  unavailable: "The store cannot be read. `problems` has the reason",
});
