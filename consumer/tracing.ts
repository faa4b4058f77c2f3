import { type Link, ROOT_CONTEXT, type Span, SpanKind, SpanStatusCode, trace } from "@opentelemetry/api";
import { OTLPTraceExporter } from "@opentelemetry/exporter-trace-otlp-http";
import { defaultResource, detectResources, envDetector, resourceFromAttributes } from "@opentelemetry/resources";
import { BatchSpanProcessor, TraceIdRatioBasedSampler, TracerProvider } from "@opentelemetry/sdk-trace";
import type { Config } from "../config.ts";
import type { Log } from "../log.ts";
import { createOutageLog } from "../outage-log.ts";
import type { Message } from "../queue/message.ts";
import type { Queue } from "../queue/queue.ts";
import { traceOf } from "../queue/trace-context.ts";
import type { Store } from "../store/store.ts";
import type { ConsumerDeps } from "./process-batch.ts";

/**
 * Creates spans for every batch, by the semantic conventions of OpenTelemetry for messaging, and exports them with OTLP. The
 * exporter reads its address from the OTEL_* variables. Spans that cannot be exported are lost.
 *
 * @returns `traced`, which starts the spans of one batch, and `close`, which exports the last spans
 */
export function startTracing({ sampleRatio }: NonNullable<Config["tracing"]>, log: Log) {
  // OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES come last, so that they override the default name.
  const resource = defaultResource()
    .merge(resourceFromAttributes({ "service.name": "order-stats" }))
    .merge(detectResources({ detectors: [envDetector] }));
  const sampler = new TraceIdRatioBasedSampler(sampleRatio);
  const spanProcessors = [new BatchSpanProcessor({ exporter: createExporter(log) })];
  const provider = new TracerProvider({ resource, sampler, spanProcessors });
  const tracer = provider.getTracer("order-stats");

  /**
   * Starts the span of a batch, which ends with its delete. `delete` is called for every batch, also without messages.
   *
   * @returns the dependencies for this batch
   */
  function traced(deps: ConsumerDeps, messages: readonly Message[]): ConsumerDeps {
    const { queue, store } = deps;
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

    const traceRecord = (record: Store["record"]) => (orders: Parameters<Store["record"]>[0]) =>
      inSpan(tracer.startSpan("record", { attributes: { orders: orders.length } }, context), async (span) => {
        const results = await record(orders);
        span.setAttribute("duplicates", results.filter((result) => result === "duplicate").length);
        return results;
      });

    const deleteMessages: Queue["delete"] = async (messages) => {
      if (messages.length === 0) {
        batch.end();
        return [];
      }
      const deleteAttributes = {
        ...attributes,
        "messaging.operation.name": "delete",
        "messaging.operation.type": "settle",
        "messaging.batch.message_count": messages.length,
      };
      const options = { kind: SpanKind.CLIENT, attributes: deleteAttributes };
      return await inSpan(tracer.startSpan("delete", options, context), async (span) => {
        const failures = await queue.delete(messages);
        if (failures[0]) span.setStatus({ code: SpanStatusCode.ERROR, message: failures[0].reason });
        return failures;
      }).finally(() => batch.end());
    };

    return {
      ...deps,
      record: traceRecord(deps.record),
      store: { ...store, record: traceRecord(store.record) },
      queue: { ...queue, delete: deleteMessages },
    };
  }

  return { traced, close: () => provider.shutdown() };
}

/** Runs `work` and ends the span. A rejection becomes the status of the span. */
async function inSpan<T>(span: Span, work: (span: Span) => Promise<T>): Promise<T> {
  try {
    return await work(span);
  } catch (error) {
    span.recordException(error as Error);
    span.setStatus({ code: SpanStatusCode.ERROR, message: `${error}` });
    throw error;
  } finally {
    span.end();
  }
}

/** @returns a link to the producer's span, if the message has one. Not a parent, because a batch has several producers */
function linksOf(message: Message): Link[] {
  const { traceId, spanId, sampled } = traceOf(message) ?? {};
  if (!traceId || !spanId) return [];
  const context = { traceId, spanId, traceFlags: sampled ? 1 : 0, isRemote: true };
  return [{ context, attributes: { "messaging.message.id": message.id } }];
}

/** Logs failed exports: the SDK itself does not. */
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
