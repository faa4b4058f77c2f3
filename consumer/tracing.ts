import { type Link, ROOT_CONTEXT, type Span, SpanKind, SpanStatusCode, trace } from "@opentelemetry/api";
import { OTLPTraceExporter } from "@opentelemetry/exporter-trace-otlp-http";
import { defaultResource, detectResources, envDetector, resourceFromAttributes } from "@opentelemetry/resources";
import { BatchSpanProcessor, TraceIdRatioBasedSampler, TracerProvider } from "@opentelemetry/sdk-trace";
import type { Config } from "../config.ts";
import type { Log } from "../log.ts";
import type { Message, Queue } from "../queue/queue.ts";
import { traceOf } from "../queue/trace.ts";
import type { Store } from "../store/store.ts";
import { createOutageLog } from "./outage-log.ts";
import type { ConsumerParts } from "./settle.ts";

/**
 * Spans of every batch for an OTLP collector, by OpenTelemetry's conventions for messaging; where to, the exporter's
 * own OTEL_* variables say. What the collector does not take is lost.
 */
export function startTracing({ sampleRatio }: NonNullable<Config["tracing"]>, log: Log) {
  // The environment's OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES come last: they win.
  const resource = defaultResource()
    .merge(resourceFromAttributes({ "service.name": "order-stats" }))
    .merge(detectResources({ detectors: [envDetector] }));
  const sampler = new TraceIdRatioBasedSampler(sampleRatio);
  const spanProcessors = [new BatchSpanProcessor({ exporter: createExporter(log) })];
  const provider = new TracerProvider({ resource, sampler, spanProcessors });
  const tracer = provider.getTracer("order-stats");

  /** Begins the span of a batch: from the answer of its receive to the end of its delete, which every batch ends with. */
  function traced(parts: ConsumerParts, messages: readonly Message[]): ConsumerParts {
    const { queue, store } = parts;
    const queueName = queue.address.url.split("/").at(-1) ?? "";
    const attributes = {
      "messaging.system": "aws_sqs",
      "messaging.destination.name": queueName,
      "messaging.operation.name": "receive",
      "messaging.operation.type": "receive",
      "messaging.batch.message_count": messages.length,
    };
    const options = { kind: SpanKind.CONSUMER, attributes, links: messages.flatMap(linksOf) };
    const batch = tracer.startSpan(`receive ${queueName}`, options, ROOT_CONTEXT);
    const context = trace.setSpan(ROOT_CONTEXT, batch);

    const recordIn = (record: Store["record"]) => (orders: Parameters<Store["record"]>[0]) =>
      within(tracer.startSpan("record", { attributes: { orders: orders.length } }, context), async (span) => {
        const answers = await record(orders);
        span.setAttribute("duplicates", answers.filter((answer) => answer === "duplicate").length);
        return answers;
      });

    const deleteMessages: Queue["delete"] = async (settled) => {
      if (settled.length === 0) {
        batch.end();
        return [];
      }
      const ofDelete = { "messaging.operation.name": "delete", "messaging.operation.type": "settle" };
      const count = { "messaging.batch.message_count": settled.length };
      const options = { kind: SpanKind.CLIENT, attributes: { ...attributes, ...ofDelete, ...count } };
      return await within(tracer.startSpan("delete", options, context), async (span) => {
        const failures = await queue.delete(settled);
        if (failures[0]) span.setStatus({ code: SpanStatusCode.ERROR, message: failures[0].reason });
        return failures;
      }).finally(() => batch.end());
    };

    return {
      ...parts,
      record: recordIn(parts.record),
      store: { ...store, record: recordIn(store.record) },
      queue: { ...queue, delete: deleteMessages },
    };
  }

  return { traced, close: () => provider.shutdown() };
}

/** Ends the span with the step; a rejection is its status. */
async function within<T>(span: Span, step: (span: Span) => Promise<T>): Promise<T> {
  try {
    return await step(span);
  } catch (error) {
    span.recordException(error as Error);
    span.setStatus({ code: SpanStatusCode.ERROR, message: `${error}` });
    throw error;
  } finally {
    span.end();
  }
}

/** The producer's span, where the message names one. A batch has many: none of them is its parent. */
function linksOf(message: Message): Link[] {
  const { traceId, spanId, sampled } = traceOf(message) ?? {};
  if (!traceId || !spanId) return [];
  const context = { traceId, spanId, traceFlags: sampled ? 1 : 0, isRemote: true };
  return [{ context, attributes: { "messaging.message.id": message.id } }];
}

/** The SDK itself keeps silent about spans that do not arrive. */
function createExporter(log: Log) {
  const outage = createOutageLog(log, { failed: "tracing_failed", recovered: "tracing_recovered" });
  const exporter = new OTLPTraceExporter();
  const send = exporter.export.bind(exporter);
  exporter.export = (spans, done) =>
    send(spans, (result) => {
      if (result.error) outage.failed(result.error);
      else outage.succeeded();
      done(result);
    });
  return exporter;
}
