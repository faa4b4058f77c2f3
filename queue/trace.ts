import type { Message } from "./queue.ts";

/** Where a message comes from: the producer's span. */
export interface Trace {
  /** 32 lower-case hexadecimal digits, as all of OpenTelemetry writes it; AWS writes them in two parts. */
  traceId: string;
  /** 16 of them. */
  spanId: string;
  sampled: boolean;
}

/** W3C Trace Context, level 1: version 00 ends after the flags, a later one may go on; ff and zero ids are invalid. */
const TRACEPARENT =
  /^(?:00(?=.{53}$)|(?!00|ff)[\da-f]{2})-(?!0{32})([\da-f]{32})-(?!0{16})([\da-f]{16})-([\da-f]{2})(?:-.*)?$/;
/** AWS X-Ray: Root=1-(seconds)-(random), Parent=(the sender's segment), Sampled=1; in any order. */
const ROOT = /(?:^|;)\s*Root=1-(?!0{8}-0{24})([\da-f]{8})-([\da-f]{24})\s*(?:;|$)/;
const PARENT = /(?:^|;)\s*Parent=(?!0{16})([\da-f]{16})\s*(?:;|$)/;
const SAMPLED = /(?:^|;)\s*Sampled=1\s*(?:;|$)/;

/** The trace a message was sent in: its attribute `traceparent`, else SQS's own `AWSTraceHeader`; undefined without. */
export function traceOf({ attributes, traceHeader }: Pick<Message, "attributes" | "traceHeader">): Trace | undefined {
  const [, traceId, spanId, flags] = TRACEPARENT.exec(attributes.traceparent?.StringValue ?? "") ?? [];
  // The lowest bit of the flags.
  if (traceId && spanId) return { traceId, spanId, sampled: (Number.parseInt(flags ?? "", 16) & 1) === 1 };
  if (traceHeader === undefined) return undefined;
  const [, seconds, random] = ROOT.exec(traceHeader) ?? [];
  const [, parent] = PARENT.exec(traceHeader) ?? [];
  if (!seconds || !random || !parent) return undefined;
  return { traceId: seconds + random, spanId: parent, sampled: SAMPLED.test(traceHeader) };
}
