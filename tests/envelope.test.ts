import { describe, expect, test } from "bun:test";
import { validateOrder } from "../consumer/order.ts";
import { ENVELOPES } from "../scripts/envelopes.ts";
import { body } from "./support/orders.ts";

const MS = Date.parse("2024-12-13T10:00:00Z");
const PATHS = { sns: "/Message", eventbridge: "/detail", "sns+eventbridge": "/Message/detail" };
const KINDS = Object.keys(PATHS) as (keyof typeof PATHS)[];
const wrapped = (kind: keyof typeof ENVELOPES, text: string) => ENVELOPES[kind](text, 1, MS);

function errorsOf(text: string) {
  const result = validateOrder(text, "correct");
  if (result.outcome !== "rejected") throw new Error(`expected a rejection, got ${result.outcome}`);
  return result.errors;
}

const pathsOf = (text: string) => errorsOf(text).map(({ path }) => path);

describe.each(KINDS)("an order in the envelope %s", (kind) => {
  const path = PATHS[kind];

  test("is validated as without it", () => {
    const text = body({ user_id: "Zoë 😀", currency: "EUR", order_timestamp: "1999-12-31T00:00:00Z" });
    const dates = { nowMs: MS, onImplausibleDate: "count" as const };
    const plain = validateOrder(text, "correct", { dates });
    expect(plain).toMatchObject({ outcome: "counted", notes: { currency: "EUR" } });
    expect(validateOrder(wrapped(kind, text), "correct", { dates })).toEqual({ ...plain, envelope: kind });
    const corrected = body({ order_value: 99.99 });
    expect(validateOrder(wrapped(kind, corrected), "correct")).toEqual({
      ...validateOrder(corrected, "correct"),
      envelope: kind,
    });
  });

  test("is rejected with paths inside the envelope and its ids", () => {
    const item = { product_id: "P", quantity: 0, price_per_unit: 1 };
    const text = wrapped(kind, body({ order_id: "X", order_value: "1", items: [item] }));
    expect(pathsOf(text)).toEqual([`${path}/order_value`, `${path}/items/0/quantity`]);
    const ids = { envelope: kind, orderId: "X", userId: "U1", reason: "invalid_order" };
    expect(validateOrder(text, "correct")).toMatchObject(ids);
    expect(pathsOf(wrapped(kind, body({ order_id: undefined })))).toEqual([`${path}/order_id`]);
    expect(pathsOf(wrapped(kind, "[]"))).toEqual([path]);
    const many = errorsOf(wrapped(kind, body({ items: Array.from({ length: 50 }, () => ({})) })));
    expect([many.length, many.at(-1)]).toEqual([20, { path, message: expect.stringMatching(/^and at least/) }]);
  });

  test("is rejected by every rule of the program at the path inside", () => {
    const mismatch = wrapped(kind, body({ order_value: 99 }));
    expect(validateOrder(mismatch, "reject")).toMatchObject({
      reason: "value_mismatch",
      errors: [{ path: `${path}/order_value` }],
    });
    const dates = { nowMs: MS, onImplausibleDate: "reject" as const };
    const future = wrapped(kind, body({ order_timestamp: "2034-12-13T00:00:00Z" }));
    expect(validateOrder(future, "correct", { dates })).toMatchObject({
      reason: "invalid_order",
      errors: [{ path: `${path}/order_timestamp` }],
    });
  });
});

describe("is no envelope:", () => {
  test.each([
    ["Notification", { Type: "Notification", Message: "{}", TopicArn: "arn" }],
    ["SubscriptionConfirmation", { Type: "SubscriptionConfirmation", Message: "", TopicArn: "arn" }],
    ["event", { "detail-type": "x", source: "y", detail: {} }],
    ["empty event", { "detail-type": "", source: "", detail: { order_id: "other" } }],
  ])("an order with all the fields of an envelope (%s)", (_, fields) => {
    const order = validateOrder(body({ order_id: "A", ...fields }), "correct");
    expect(order).toMatchObject({ outcome: "counted", order: { id: "A" } });
    expect(order).not.toHaveProperty("envelope");
    expect(pathsOf(body({ order_id: "", ...fields }))).toEqual(["/order_id"]);
  });

  test.each([
    ["no topic", { Type: "Notification", Message: "{}" }],
    ["a message that is an object", { Type: "Notification", TopicArn: "arn", Message: {} }],
    ["another type", { Type: "constructor", TopicArn: "arn", Message: "{}" }],
    ["no source", { "detail-type": "x", detail: {} }],
    ["a detail that is text", { "detail-type": "x", source: "y", detail: "{}" }],
    ["a detail that is null", { "detail-type": "x", source: "y", detail: null }],
    ["a type that is a number", { "detail-type": 1, source: "y", detail: {} }],
  ])("%s", (_, fields) => {
    const result = validateOrder(JSON.stringify(fields), "correct");
    expect(result).not.toHaveProperty("envelope");
    expect(pathsOf(JSON.stringify(fields))).toContain("/order_id");
  });

  test.each(["null", "[]", '"Notification"', "1", "{}"])("%s", (text) => {
    expect(validateOrder(text, "correct")).not.toHaveProperty("envelope");
  });

  test.each([
    ["sns in sns", wrapped("sns", wrapped("sns", body())), "sns", "/Message"],
    ["eventbridge in eventbridge", wrapped("eventbridge", wrapped("eventbridge", body())), "eventbridge", "/detail"],
    ["sns in eventbridge", wrapped("eventbridge", wrapped("sns", body())), "eventbridge", "/detail"],
    ["deeper", wrapped("sns", wrapped("eventbridge", wrapped("sns", body()))), "sns+eventbridge", "/Message/detail"],
  ])("the inner one of %s", (_, text, envelope, path) => {
    expect(validateOrder(text, "correct")).toMatchObject({ outcome: "rejected", envelope });
    expect(pathsOf(text)).toContain(`${path}/order_id`);
  });
});

test("an order inside an envelope may have all the fields of an event", () => {
  const order = body({ order_id: "A", "detail-type": "x", source: "y", detail: {} });
  for (const kind of KINDS)
    expect(validateOrder(wrapped(kind, order), "correct")).toMatchObject({ order: { id: "A" }, envelope: kind });
});

test.each(["SubscriptionConfirmation", "UnsubscribeConfirmation"])(
  "a %s of SNS is rejected with what to do",
  (type) => {
    const text = JSON.stringify({
      Type: type,
      MessageId: "165545c9-2a5c-472c-8df2-7ff2be2b3b1b",
      Token: "2336412f37",
      TopicArn: "arn:aws:sns:us-west-2:123456789012:MyTopic",
      Message: "You have chosen to subscribe to the topic arn:aws:sns:us-west-2:123456789012:MyTopic.",
      SubscribeURL: "https://sns.us-west-2.amazonaws.com/?Action=ConfirmSubscription",
      Timestamp: "2012-04-26T20:45:04.751Z",
    });
    expect(validateOrder(text, "correct")).toEqual({
      outcome: "rejected",
      reason: "invalid_order",
      errors: [{ path: "", message: expect.stringMatching(new RegExp(`${type}.*by hand.*RawMessageDelivery`)) }],
      envelope: "sns",
    });
    expect(errorsOf(text)[0]?.message.length).toBeLessThan(250);
  },
);

test("a notification without JSON is rejected as such, and quotes nothing of it", () => {
  const text = wrapped("sns", "Hello Ms Miller");
  const message = "must be an order as JSON, in this notification of SNS: Unexpected identifier, at character 1";
  expect(validateOrder(text, "correct")).toEqual({
    outcome: "rejected",
    reason: "invalid_json",
    errors: [{ path: "/Message", message }],
    envelope: "sns",
  });
  expect(validateOrder(wrapped("sns", ""), "correct")).toMatchObject({ reason: "invalid_json", envelope: "sns" });
  expect(validateOrder(wrapped("sns", "[".repeat(500_000)), "correct")).toMatchObject({ reason: "invalid_json" });
});
