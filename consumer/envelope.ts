/** Recognizes the envelopes that AWS puts around an order on its way to SQS. Pure functions that do not throw. */

import { describeJsonError } from "./json.ts";

/** `none` is an order without an envelope. */
export const ENVELOPES = ["none", "sns", "eventbridge", "sns+eventbridge"] as const;
export type Envelope = Exclude<(typeof ENVELOPES)[number], "none">;

export interface Opened {
  envelope: Envelope;
  /** JSON pointer (RFC 6901) to `content`. */
  path: string;
  /** What should be an order. */
  content?: unknown;
  /** Why the envelope cannot contain an order; its `content` is then absent. */
  problem?: { reason: "invalid_json" | "invalid_order"; message: string };
}

const CONTROL_MESSAGES = ["SubscriptionConfirmation", "UnsubscribeConfirmation"];

/**
 * @param sent the parsed body of a message
 * @returns what the envelope contains; undefined if `sent` is no envelope. Anything with an `order_id` is an order, whatever its
 *   other fields
 */
export function openEnvelope(sent: unknown): Opened | undefined {
  if (!isObject(sent) || "order_id" in sent) return undefined;
  if (isEvent(sent)) return { envelope: "eventbridge", path: "/detail", content: sent.detail };
  const { Type: type, TopicArn: topic, Message: text } = sent;
  if (typeof type !== "string" || typeof topic !== "string" || typeof text !== "string") return undefined;
  if (type === "Notification") return openNotification(text);
  if (!CONTROL_MESSAGES.includes(type)) return undefined;
  const message = `must be an order, is the ${type} of an SNS topic: to subscribe this queue, confirm it by hand with \`aws sns confirm-subscription\`; set RawMessageDelivery for orders without envelope`;
  return { envelope: "sns", path: "", problem: { reason: "invalid_order", message } };
}

function openNotification(text: string): Opened {
  const path = "/Message";
  let content: unknown;
  try {
    content = JSON.parse(text);
  } catch (error) {
    const message = `must be an order as JSON, in this notification of SNS: ${describeJsonError(error, text)}`;
    return { envelope: "sns", path, problem: { reason: "invalid_json", message } };
  }
  if (!isEvent(content)) return { envelope: "sns", path, content };
  return { envelope: "sns+eventbridge", path: `${path}/detail`, content: content.detail };
}

const isObject = (value: unknown): value is Record<string, unknown> => typeof value === "object" && value !== null;

function isEvent(value: unknown): value is { detail: object } {
  if (!isObject(value) || "order_id" in value) return false;
  return typeof value["detail-type"] === "string" && typeof value.source === "string" && isObject(value.detail);
}
