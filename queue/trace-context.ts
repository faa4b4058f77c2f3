import type { Message } from "./message.ts";

/** The producer's span, in the format of OpenTelemetry. */
export interface Trace {
  /** 32 lower-case hexadecimal digits. */
  traceId: string;
  /** 16 lower-case hexadecimal digits. */
  spanId: string;
  sampled: boolean;
}

/** W3C Trace Context, level 1. Version 00 ends after the flags, later versions may continue. Version ff and zero ids are invalid. */
const TRACEPARENT =
  /^(?:00(?=.{53}$)|(?!00|ff)[\da-f]{2})-(?!0{32})([\da-f]{32})-(?!0{16})([\da-f]{16})-([\da-f]{2})(?:-.*)?$/;
/** AWS X-Ray: Root=1-{8 digits}-{24 digits}, Parent={the sender's segment}, Sampled=1; in any order. */
const ROOT = /(?:^|;)\s*Root=1-(?!0{8}-0{24})([\da-f]{8})-([\da-f]{24})\s*(?:;|$)/;
const PARENT = /(?:^|;)\s*Parent=(?!0{16})([\da-f]{16})\s*(?:;|$)/;
const SAMPLED = /(?:^|;)\s*Sampled=1\s*(?:;|$)/;

/**
 * @returns the trace of the producer: from the attribute `traceparent` of the message, or of the SNS notification in its body, or
 *   else from `AWSTraceHeader`, which SNS and EventBridge pass on, or else undefined
 */
export function traceOf(message: Pick<Message, "attributes" | "traceHeader" | "body">): Trace | undefined {
  const { attributes, traceHeader, body } = message;
  const own = parseTraceparent(attributes.traceparent?.StringValue) ?? parseTraceparent(traceparentInBody(body));
  if (own || traceHeader === undefined) return own;
  const [, seconds, random] = ROOT.exec(traceHeader) ?? [];
  const [, parent] = PARENT.exec(traceHeader) ?? [];
  if (!seconds || !random || !parent) return undefined;
  return { traceId: seconds + random, spanId: parent, sampled: SAMPLED.test(traceHeader) };
}

function parseTraceparent(text = ""): Trace | undefined {
  const [, traceId, spanId, flags] = TRACEPARENT.exec(text) ?? [];
  if (!traceId || !spanId) return undefined;
  // The lowest bit of the flags is `sampled`.
  return { traceId, spanId, sampled: (Number.parseInt(flags ?? "", 16) & 1) === 1 };
}

/** @returns the attribute `traceparent` of an SNS notification, which SNS delivers in the body */
function traceparentInBody(body: string): string | undefined {
  // Most bodies do not contain it, and parsing them again would take much longer.
  if (!body.includes('"traceparent"')) return undefined;
  try {
    const { Type, MessageAttributes } = Object(JSON.parse(body));
    const value = Type === "Notification" ? MessageAttributes?.traceparent?.Value : undefined;
    return typeof value === "string" ? value : undefined;
  } catch {
    return undefined;
  }
}
