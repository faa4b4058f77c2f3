/** The envelopes in which AWS delivers an order to SQS, with the fields that matter. */

const uuid = (number: number) => `00000000-0000-4000-8000-${number.toString(16).padStart(12, "0")}`;

function notification(Message: string, number: number, nowMs: number): string {
  const TopicArn = "arn:aws:sns:eu-west-1:123456789012:orders";
  const Timestamp = new Date(nowMs).toISOString();
  return JSON.stringify({ Type: "Notification", MessageId: uuid(number), TopicArn, Message, Timestamp });
}

/** The body is inserted as text: one that is no JSON makes an event that is none. */
function event(body: string, number: number, nowMs: number): string {
  const names = { "detail-type": "Order Placed", source: "shop.checkout", region: "eu-west-1" };
  const head = { version: "0", id: uuid(number), ...names, time: new Date(nowMs).toISOString() };
  return `${JSON.stringify(head).slice(0, -1)},"detail":${body}}`;
}

/** Each takes a body, the number of the message, and the time in ms since the epoch. */
export const ENVELOPES = {
  none: (body: string) => body,
  sns: notification,
  eventbridge: event,
  "sns+eventbridge": (body: string, number: number, nowMs: number) =>
    notification(event(body, number, nowMs), number, nowMs),
};
const KINDS = Object.keys(ENVELOPES) as (keyof typeof ENVELOPES)[];

/** `mixed` is each kind in turn, `none` included. */
export const ENVELOPE_OPTIONS = ["sns", "eventbridge", "sns+eventbridge", "mixed"] as const;
export type EnvelopeOption = (typeof ENVELOPE_OPTIONS)[number];

/** @returns the body in its envelope; undefined is no envelope */
export function wrap(envelope: EnvelopeOption | undefined, body: string, number: number, nowMs: number): string {
  const kind = envelope === "mixed" ? KINDS[number % KINDS.length] : envelope;
  return ENVELOPES[kind ?? "none"](body, number, nowMs);
}
