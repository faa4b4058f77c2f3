import { Elysia } from "elysia";
import type { Depth } from "../queue/queue.ts";
import type { Store } from "../store/store.ts";
import { cached, LOOK_DEADLINE_MS, within } from "./look.ts";
import { object, operation } from "./openapi.ts";

export interface WorkerStatus {
  state: "running" | "paused" | "restarting";
  /** Why it does not do its work. */
  reason?: string;
  /** How long nothing has moved in it, ms; absent while it is being replaced. */
  sinceProgressMs?: number;
}

export interface HealthParts {
  store: Store;
  storeKind: "redis" | "cluster" | "sqlite";
  depth: () => Promise<Depth>;
  workers: () => WorkerStatus[];
}

/** The welcome and the truth about the parts. */
export function healthRoutes(parts: HealthParts) {
  const health = cached(() => lookAtParts(parts));
  return new Elysia({ name: "health" })
    .get("/", () => WELCOME, { detail: welcomeDetail })
    .get(
      "/health",
      async ({ set }) => {
        const answer = await health();
        set.status = answer.status === "healthy" ? 200 : 503;
        set.headers["cache-control"] = "no-store";
        return answer;
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

async function lookAtParts({ store, storeKind, depth, workers }: HealthParts) {
  const [storeProblem, queueProblem] = await Promise.all([problemOf(store.check()), problemOf(depth())]);
  const stuck = workers().flatMap(({ state, reason }, index) =>
    state === "running" && !reason ? [] : [`worker ${index + 1} is ${state}: ${reason ?? "not ready yet"}`],
  );
  const problems = [
    ...(storeProblem ? [`store: ${storeProblem}`] : []),
    ...(queueProblem ? [`queue: ${queueProblem}`] : []),
    ...stuck,
  ];
  const connected = storeKind === "sqlite" ? "embedded" : "connected";
  return {
    status: problems.length === 0 ? "healthy" : "unhealthy",
    services: {
      redis: storeProblem ? "disconnected" : connected,
      api: "running",
      queue: queueProblem ? "disconnected" : "connected",
      consumers: workers().length === 0 ? "none" : stuck.length > 0 ? "failing" : "running",
    },
    ...(problems.length > 0 && { problems }),
  };
}

/** Why a part does not answer in time; undefined when it does. */
async function problemOf(check: Promise<unknown>): Promise<string | undefined> {
  try {
    await within(LOOK_DEADLINE_MS, check);
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

const WELCOME = {
  message: "Welcome to Qyrus Assignment API",
  version: "1.0.0",
  docs: "/docs",
  health: "/health",
};

const text = { type: "string" };

const welcomeDetail = operation({
  tag: "service",
  open: true,
  summary: "Where things are",
  schema: object({ message: text, version: text, docs: text, health: text }),
  example: WELCOME,
});

const HEALTH = {
  ...object({
    status: { type: "string", enum: ["healthy", "unhealthy"] },
    services: object({
      redis: { type: "string", enum: ["connected", "embedded", "disconnected"] },
      api: { type: "string", enum: ["running"] },
      queue: { type: "string", enum: ["connected", "disconnected"] },
      consumers: { type: "string", enum: ["running", "failing", "none"] },
    }),
  }),
};

const healthDetail = whenNot(
  "The store or the queue cannot be reached or a consumer is stuck; `problems` says why",
  operation({
    tag: "service",
    open: true,
    summary: "Whether the store, the queue and the consumers work",
    schema: HEALTH,
    example: {
      status: "healthy",
      services: { redis: "connected", api: "running", queue: "connected", consumers: "running" },
    },
  }),
);

const readyDetail = whenNot(
  "The store cannot be read; `problems` says why",
  operation({
    tag: "service",
    open: true,
    summary: "Whether this process can answer requests",
    description:
      "For a load balancer. A process whose queue is away or whose consumers are stuck still answers: see /health.",
    schema: object({ status: { type: "string", enum: ["ready", "not ready"] } }),
    example: { status: "ready" },
  }),
);

/** Adds the 503 that has the same form as the 200. */
function whenNot(description: string, detail: ReturnType<typeof operation>) {
  const { content } = detail.responses[200];
  const schema = content["application/json"]?.schema;
  return {
    ...detail,
    responses: { ...detail.responses, 503: { description, content: { "application/json": { schema } } } },
  };
}
