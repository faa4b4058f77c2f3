import { afterEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { SendMessageBatchCommand } from "@aws-sdk/client-sqs";
import pino from "pino";
import type { ConsumerDeps } from "../consumer/process-batch.ts";
import { startTracing } from "../consumer/tracing.ts";
import { createClient } from "../queue/client.ts";
import type { Message } from "../queue/message.ts";
import { body, order } from "./support/orders.ts";
import { eventsOf, type Program, startProgram, temporaryFolder } from "./support/program.ts";
import { waitFor } from "./support/wait-for.ts";

// Real processes on a busy machine: bun's five seconds would fail a test that is only slow.
setDefaultTimeout(60_000);

const ID = "0af7651916cd43dd8448eb211c80319c";
const SPAN = "b7ad6b7169203331";
const CONSUMER = 5;
const CLIENT = 3;
const ERROR = 2;

interface Attribute {
  key: string;
  value: Record<string, unknown>;
}
/** As OTLP/JSON has it. */
interface SentSpan {
  traceId: string;
  spanId: string;
  parentSpanId?: string;
  name: string;
  kind: number;
  attributes: Attribute[];
  links: { traceId: string; spanId: string; attributes: Attribute[] }[];
  events: { name: string; attributes: Attribute[] }[];
  status: { code: number; message?: string };
}
interface Export {
  resourceSpans: { resource: { attributes: Attribute[] }; scopeSpans: { spans: SentSpan[] }[] }[];
}

const valuesOf = (attributes: Attribute[] = []) =>
  Object.fromEntries(attributes.map(({ key, value }) => [key, Object.values(value)[0]]));

/** A real receiver of OTLP over HTTP; what it answers can be told. */
function startCollector(answer: () => Response | Promise<Response> = () => Response.json({})) {
  const exports: Export[] = [];
  const server = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    fetch: async (request) => {
      if (new URL(request.url).pathname !== "/v1/traces") return new Response("", { status: 404 });
      exports.push((await request.json()) as Export);
      return await answer();
    },
  });
  const resources = () => exports.flatMap(({ resourceSpans }) => resourceSpans);
  return {
    url: server.url.origin,
    spans: () => resources().flatMap(({ scopeSpans }) => scopeSpans.flatMap(({ spans }) => spans)),
    service: () => valuesOf(resources()[0]?.resource.attributes)["service.name"],
    [Symbol.asyncDispose]: () => server.stop(true),
  };
}

/** The program on its embedded halves, with one worker. */
async function startShop(env: Record<string, string>, file?: string) {
  const program = await startProgram({ DATA_DIR: temporaryFolder(), CONSUMER_WORKERS: "1", ...env }, [], file);
  const { queue } = eventsOf(program.output()).find(({ event }) => event === "started") as { queue: string };
  const client = createClient({ endpoint: new URL(queue).origin, embedded: true });

  async function send(messages: { body: string; traceparent?: string }[]) {
    const Entries = messages.map(({ body, traceparent }, index) => ({
      Id: `${index}`,
      MessageBody: body,
      ...(traceparent && { MessageAttributes: { traceparent: { DataType: "String", StringValue: traceparent } } }),
    }));
    await client.send(new SendMessageBatchCommand({ QueueUrl: queue, Entries }));
  }

  return { program, send };
}

async function counted(program: Program, orders: number) {
  await waitFor("the orders", async () => {
    const answer = (await (await program.get("/stats/global")).json()) as { total_orders: number };
    return answer.total_orders === orders;
  });
}

async function stop(program: Program): Promise<number> {
  const before = performance.now();
  program.kill("SIGTERM");
  expect(await program.exited).toBe(0);
  return performance.now() - before;
}

describe("the program", () => {
  test("sends a span for each batch with links to its producers, and its record and delete as children", async () => {
    await using collector = startCollector();
    const { program, send } = await startShop({ OTEL_EXPORTER_OTLP_ENDPOINT: collector.url });
    const copy = body();
    const traced = [1, 2].map((n) => ({ body: body(), traceparent: `00-${ID}-${n}${SPAN.slice(1)}-01` }));
    await send([...traced, { body: copy }, { body: copy, traceparent: "nonsense" }]);
    await counted(program, 3);
    await stop(program);
    const spans = collector.spans();
    const received = spans.filter(({ name }) => name === "receive orders-queue");
    const queue = { "messaging.system": "aws_sqs", "messaging.destination.name": "orders-queue" };
    for (const { spanId, traceId, kind, parentSpanId, attributes } of received) {
      expect({ kind, parentSpanId: parentSpanId ?? "" }).toEqual({ kind: CONSUMER, parentSpanId: "" });
      const { "messaging.batch.message_count": messages, ...others } = valuesOf(attributes);
      expect(others).toEqual({
        ...queue,
        "messaging.operation.name": "receive",
        "messaging.operation.type": "receive",
      });
      const children = spans.filter(({ parentSpanId }) => parentSpanId === spanId);
      expect(children.map(({ name }) => name)).toEqual(["record", "delete"]);
      for (const child of children) expect(child.traceId).toBe(traceId);
      expect(children[1]?.kind).toBe(CLIENT);
      expect(valuesOf(children[1]?.attributes)).toEqual({
        ...queue,
        "messaging.operation.name": "delete",
        "messaging.operation.type": "settle",
        "messaging.batch.message_count": messages,
      });
    }
    const sum = (name: string, key: string) =>
      spans.filter((span) => span.name === name).reduce((sum, one) => sum + Number(valuesOf(one.attributes)[key]), 0);
    expect(sum("receive orders-queue", "messaging.batch.message_count")).toBe(4);
    expect(sum("record", "orders")).toBe(4);
    expect(sum("record", "duplicates")).toBe(1);
    const links = received.flatMap(({ links }) => links);
    expect(links.map(({ traceId, spanId }) => `${traceId} ${spanId}`).sort()).toEqual([
      `${ID} 1${SPAN.slice(1)}`,
      `${ID} 2${SPAN.slice(1)}`,
    ]);
    for (const { attributes } of links) expect(valuesOf(attributes)["messaging.message.id"]).toMatch(/^[\da-f-]{36}$/);
    expect(spans).toHaveLength(received.length * 3);
    expect(collector.service()).toBe("order-stats");
  });

  test.each([
    ["by another name", { OTEL_SERVICE_NAME: "shop" }, "shop"],
    ["none of a sampler that takes none", { OTEL_TRACES_SAMPLER: "always_off" }, undefined],
  ])("sends spans %s", async (_, env, service) => {
    await using collector = startCollector();
    const { program, send } = await startShop({ OTEL_EXPORTER_OTLP_ENDPOINT: collector.url, ...env });
    await send([{ body: body() }]);
    await counted(program, 1);
    await stop(program);
    expect(collector.service()).toBe(service as string);
  });

  test("is not held up by a collector that does not answer", async () => {
    await using collector = startCollector(() => new Promise<Response>(() => {}));
    const { program, send } = await startShop({ OTEL_EXPORTER_OTLP_ENDPOINT: collector.url });
    await send([{ body: body() }]);
    await counted(program, 1);
    expect(await stop(program)).toBeLessThan(4_000);
    expect(eventsOf(program.output()).map(({ event }) => event)).not.toContain("worker_terminated");
  });

  test("logs once that a collector refuses its spans", async () => {
    await using collector = startCollector(() => new Response("no", { status: 403 }));
    const { program, send } = await startShop({ OTEL_EXPORTER_OTLP_ENDPOINT: collector.url });
    await send([{ body: body() }]);
    await counted(program, 1);
    await stop(program);
    const lines = eventsOf(program.output()).filter(({ event }) => `${event}`.startsWith("tracing"));
    expect(lines).toMatchObject([{ event: "tracing_failed", level: "warn" }]);
  });

  test.each([
    ["nothing", {}, false],
    ["the SDK", { OTEL_EXPORTER_OTLP_ENDPOINT: "http://127.0.0.1:1" }, true],
  ])("loads %s of OpenTelemetry by %j", async (_, env, loaded) => {
    const { program } = await startShop(env as Record<string, string>, "tests/support/listing-program.ts");
    await stop(program);
    const listed = eventsOf(program.output()).find(({ event }) => event === "modules_loaded");
    const modules = listed?.modules as string[];
    expect(modules.some((path) => path.endsWith("consumer/process-batch.ts"))).toBeTrue();
    // Its API alone, some constants, comes with prom-client.
    const sdk = modules.filter((path) => /@opentelemetry\/(?!api\/)/.test(path));
    expect(sdk.length > 0).toBe(loaded);
  });
});

describe("a batch", () => {
  afterEach(() => {
    delete process.env.OTEL_EXPORTER_OTLP_ENDPOINT;
  });

  /** One traced batch of a consumer whose requests end as told, and the spans it sent. */
  async function spansOf(fields: Partial<ConsumerDeps>, run: (parts: ConsumerDeps) => Promise<unknown>) {
    await using collector = startCollector();
    // The exporter reads it itself.
    process.env.OTEL_EXPORTER_OTLP_ENDPOINT = collector.url;
    const { traced, close } = startTracing({ sampleRatio: 1 }, pino({ level: "silent" }));
    const queue = { address: { url: "http://q/0/orders" }, ...fields.queue };
    const message: Message = { id: "m", body: "", receiptHandle: "", sentAtMs: 0, attributes: {} };
    await run(traced({ store: {}, ...fields, queue } as unknown as ConsumerDeps, [message]));
    await close();
    return collector.spans();
  }

  test("whose orders the store refuses has the error in its record", async () => {
    const failing = async () => {
      throw new Error("OOM");
    };
    const deleted = { delete: async () => [] } as unknown as ConsumerDeps["queue"];
    const spans = await spansOf({ record: failing, queue: deleted }, async ({ record, queue }) => {
      await expect(record([order()])).rejects.toThrow("OOM");
      await queue.delete([]);
    });
    expect(spans.map(({ name }) => name)).toEqual(["record", "receive orders"]);
    expect(spans[0]?.status).toEqual({ code: ERROR, message: "Error: OOM" });
    expect(valuesOf(spans[0]?.events[0]?.attributes)["exception.message"]).toBe("OOM");
  });

  test("of which SQS keeps a message has the reason in its delete", async () => {
    const kept = {
      delete: async (messages: readonly Message[]) => messages.map((message) => ({ message, reason: "InternalError" })),
    } as unknown as ConsumerDeps["queue"];
    const message: Message = { id: "m", body: "", receiptHandle: "", sentAtMs: 0, attributes: {} };
    const spans = await spansOf({ queue: kept }, ({ queue }) => queue.delete([message]));
    expect(spans.map(({ name, status }) => [name, status.code])).toEqual([
      ["delete", ERROR],
      ["receive orders", 0],
    ]);
    expect(spans[0]?.status.message).toBe("InternalError");
  });
});
