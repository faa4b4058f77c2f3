import { expect, test } from "bun:test";
import { validateOrder } from "../consumer/order.ts";
import { createOffsetAt } from "../consumer/time-zone.ts";
import { type GeneratedMessage, type GeneratorOptions, generate, MAX_REMEMBERED } from "../scripts/generator.ts";

const DAY_MS = 24 * 3600 * 1000;
const nowMs = Date.parse("2024-12-13T15:00:00Z");
const mix = { mismatch: 10, invalid: 5, duplicates: 20 };
const options: GeneratorOptions = { ...mix, seed: 42, users: 1_000, days: 7, nowMs, onValueMismatch: "correct" };

function take(count: number, changes: Partial<GeneratorOptions> = {}): GeneratedMessage[] {
  const messages = generate({ ...options, ...changes });
  return Array.from({ length: count }, () => messages.next().value);
}

/** The outcomes of the bodies, by the program's own validation. */
function validateAll(bodies: string[], onValueMismatch: "correct" | "reject") {
  const seen = new Set<string>();
  return bodies.map((body) => {
    const result = validateOrder(body, onValueMismatch);
    if (result.outcome === "rejected") return { expected: "rejected" as const, cents: 0 };
    const { id: orderId, userId, day, cents } = result.order;
    const expected = seen.has(orderId) ? "duplicate" : result.outcome;
    seen.add(orderId);
    return { expected, orderId, userId, day, cents };
  });
}

/** Only the outcome of a rejected message can be compared: its body may have no valid user or day. */
function expectedOf({ body: _, ...message }: GeneratedMessage) {
  return message.expected === "rejected" ? { expected: "rejected" as const, cents: message.cents } : message;
}

const percentOf = (messages: GeneratedMessage[], outcome: string) =>
  (messages.filter(({ expected }) => expected === outcome).length / messages.length) * 100;

test.each(["correct", "reject"] as const)(
  "validateOrder() returns the expected outcome for every body, with %s",
  (onValueMismatch) => {
    const messages = take(20_000, { onValueMismatch });
    const bodies = messages.map(({ body }) => body);
    expect(validateAll(bodies, onValueMismatch)).toEqual(messages.map(expectedOf));
  },
);

test.each(["sns", "eventbridge", "sns+eventbridge", "mixed"] as const)(
  "the envelope %s changes the bodies only, and validateOrder() opens it",
  (envelope) => {
    const messages = take(5_000, { envelope });
    expect(messages.map(expectedOf)).toEqual(take(5_000).map(expectedOf));
    const bodies = messages.map(({ body }) => body);
    expect(validateAll(bodies, "correct")).toEqual(messages.map(expectedOf));
    // The envelope of a rejected order may be unknown: an event around a body that is no JSON is no event.
    const valid = bodies.map((body) => validateOrder(body, "correct")).filter(({ outcome }) => outcome !== "rejected");
    const kinds = envelope === "mixed" ? ["none", "sns", "eventbridge", "sns+eventbridge"] : [envelope];
    expect(new Set(valid.map(({ envelope = "none" }) => envelope))).toEqual(new Set(kinds) as never);
  },
);

test("the same options make the same messages", () => {
  expect(take(1_000)).toEqual(take(1_000));
});

test("the same seed keeps ids, users, days and cents over a day", () => {
  const later = take(1_000, { nowMs: nowMs + 3 * 3600 * 1000 });
  expect(later.map(expectedOf)).toEqual(take(1_000).map(expectedOf));
});

test("different seeds share no order id", () => {
  const ids = [1, 2, 36, 37, 2 ** 32 - 1].flatMap((seed) => take(2_000, { seed, duplicates: 0 }).map((m) => m.orderId));
  expect(new Set(ids).size).toBe(ids.length);
});

test("percentages are of all messages", () => {
  const messages = take(20_000);
  expect(Math.abs(percentOf(messages, "rejected") - 5)).toBeLessThan(1);
  expect(Math.abs(percentOf(messages, "duplicate") - 20)).toBeLessThan(1);
  expect(Math.abs(percentOf(messages, "corrected") - 10)).toBeLessThan(1);
});

test("100 percent are all messages, but for the first order, which copies none", () => {
  const none = { mismatch: 0, invalid: 0, duplicates: 0 };
  expect(percentOf(take(500, none), "counted")).toBe(100);
  expect(percentOf(take(500, { ...none, mismatch: 100 }), "corrected")).toBe(100);
  expect(percentOf(take(500, { ...none, invalid: 100 }), "rejected")).toBe(100);
  expect(percentOf(take(500, { ...none, duplicates: 100 }).slice(1), "duplicate")).toBe(100);
});

test("a copy has the body of its original, or a resent flag in addition", () => {
  const bodies = new Map<string, string>();
  const copies = take(5_000).flatMap(({ expected, orderId, body }) => {
    if (expected === "duplicate") return { body, original: bodies.get(orderId) };
    bodies.set(orderId, body);
    return [];
  });
  const identical = copies.filter(({ body, original }) => body === original);
  expect(identical.length).toBeGreaterThan(copies.length / 2);
  expect(identical.length).toBeLessThan(copies.length);
  for (const { body, original } of copies) expect(body.replace('"resent":true,', "")).toBe(original ?? "none");
});

test("orders fall on the last days in UTC, some by an offset that crosses midnight, and none in the future", () => {
  const messages = take(5_000, { invalid: 0 });
  const stamps = messages.map(({ body }) => JSON.parse(body).order_timestamp as string);
  const days = Array.from({ length: 7 }, (_, ago) => new Date(nowMs - ago * DAY_MS).toISOString().slice(0, 10));
  expect(new Set(messages.map(({ day }) => day))).toEqual(new Set(days));
  expect(Math.max(...stamps.map((stamp) => Date.parse(stamp)))).toBeLessThanOrEqual(nowMs);
  expect(messages.filter(({ day }, index) => !stamps[index]?.startsWith(day)).length).toBeGreaterThan(50);
  expect(stamps.filter((stamp) => stamp.endsWith("Z")).length).toBeGreaterThan(messages.length * 0.8);
});

test.each(["Europe/Berlin", "America/St_Johns", "Pacific/Apia"])(
  "with %s, orders fall on the days there, through a change of the clock",
  (timeZone) => {
    // Europe and America have set their clocks back, and Apia has skipped a day within these days.
    const [back, apia] = [Date.parse("2010-11-09T15:00:00Z"), Date.parse("2012-01-02T15:00:00Z")];
    const at = timeZone === "Pacific/Apia" ? apia : back;
    const messages = take(5_000, { ...{ mismatch: 0, invalid: 0, duplicates: 0 }, timeZone, nowMs: at, days: 14 });
    const offsetAt = createOffsetAt(timeZone);
    for (const { body, day } of messages)
      expect(validateOrder(body, "correct", { offsetAt })).toMatchObject({ order: { day } });
    const last = Temporal.Instant.fromEpochMilliseconds(at).toZonedDateTimeISO(timeZone).toPlainDate().toString();
    const days = [...new Set(messages.map(({ day }) => day))].sort();
    expect(days.at(-1)).toBe(last);
    // Apia has skipped one. A longer day moves the first one's last hour to the day before.
    expect(days.length).toBeWithin(13, 16);
  },
);

test("a tenth of the users sends about half of the orders, and no user is outside the range", () => {
  const numbers = take(20_000, { users: 50, duplicates: 0 }).map(({ userId }) => Number(userId.slice(1)));
  expect(new Set(numbers).size).toBe(50);
  expect([Math.min(...numbers), Math.max(...numbers)]).toEqual([1, 50]);
  const part = numbers.filter((number) => number <= 5).length / numbers.length;
  expect(part).toBeGreaterThan(0.4);
  expect(part).toBeLessThan(0.55);
});

test("copies are of the latest orders, however many there are", () => {
  const number = ({ orderId }: GeneratedMessage) => Number(orderId.split("-")[2]);
  const ages = take(60_000, { duplicates: 50 }).flatMap((message, index) =>
    message.expected === "duplicate" && index > 50_000 ? index - number(message) : [],
  );
  // Half of the messages are orders, so one is kept for 2 × MAX_REMEMBERED messages on average. If all were kept, it would be 27,000.
  expect(ages.reduce((sum, age) => sum + age) / ages.length).toBeLessThan(4 * MAX_REMEMBERED);
});
