/** Generates orders as a shop sends them, each with its expected outcome. Pure: the same options generate the same messages. */

import { type EnvelopeOption, wrap } from "./envelopes.ts";

export interface GeneratorOptions {
  /** 0 to 2^32 - 1. Part of every order id, so that different seeds share none. */
  seed: number;
  users: number;
  /** Percent of all messages, together at most 100. The first order is never a duplicate. */
  mismatch: number;
  invalid: number;
  duplicates: number;
  /** Number of days the orders fall on. The last is the day of `nowMs`, up to `nowMs`. */
  days: number;
  nowMs: number;
  /** IANA name of the time zone of the days. Default: UTC. */
  timeZone?: string;
  /** ON_VALUE_MISMATCH of the program. */
  onValueMismatch: "correct" | "reject";
  /** Changes only the bodies. */
  envelope?: EnvelopeOption | undefined;
}

/** A copy has the `userId`, `day` and `cents` of its order. Rejected messages have 0 cents. */
export interface GeneratedMessage {
  body: string;
  expected: "counted" | "corrected" | "duplicate" | "rejected";
  orderId: string;
  userId: string;
  /** YYYY-MM-DD. */
  day: string;
  cents: number;
}

/** Number of orders that copies are drawn from: enough for old and new ones, in constant memory. */
export const MAX_REMEMBERED = 1_000;

const DAY_MS = 24 * 3600 * 1000;
const PAYMENT_METHODS = ["CreditCard", "DebitCard", "PayPal", "UPI", "NetBanking", "CashOnDelivery"];
const STREETS = ["Main St", "Oak Avenue", "MG Road", "Bahnhofstraße", "Rua da Misericórdia", "桜通り"];
const CITIES = ["Springfield", "Chennai", "Zürich", "São Paulo", "名古屋市", "Łódź"];
const ZONES = { "+05:30": 330, "-08:00": -480, "+13:00": 780, "-03:30": -210 };

/** @returns whether the message adds to the totals, provided that it arrives before its copies */
export const isOrder = ({ expected }: GeneratedMessage) => expected === "counted" || expected === "corrected";

/** Yields an endless sequence of messages. */
export function* generate(options: GeneratorOptions): Generator<GeneratedMessage, never> {
  const draw = createDraw(options.seed);
  const earlier: GeneratedMessage[] = [];
  for (let number = 1; ; number++) {
    const kind = drawKind(draw, options);
    const copies = kind === "duplicate" && earlier.length > 0;
    const message = copies ? copyOf(draw.pick(earlier), draw) : createMessage(draw, options, kind, number);
    const slot = earlier.length < MAX_REMEMBERED ? earlier.length : draw.below(MAX_REMEMBERED);
    if (isOrder(message)) earlier[slot] = message;
    yield { ...message, body: wrap(options.envelope, message.body, number, options.nowMs) };
  }
}

type Kind = "valid" | "mismatch" | "invalid" | "duplicate";

/** A single draw, so that each percentage is one of all messages. */
function drawKind(draw: Draw, { mismatch, invalid, duplicates }: GeneratorOptions): Kind {
  const percent = draw.fraction() * 100;
  if (percent < invalid) return "invalid";
  if (percent < invalid + duplicates) return "duplicate";
  return percent < invalid + duplicates + mismatch ? "mismatch" : "valid";
}

/** The body may differ, but not what the order counts for: SQS may deliver the copy first. */
function copyOf(original: GeneratedMessage, draw: Draw): GeneratedMessage {
  const body = draw.chance(80) ? original.body : original.body.replace("{", '{"resent":true,');
  return { ...original, body, expected: "duplicate" };
}

function createMessage(draw: Draw, options: GeneratorOptions, kind: Kind, number: number): GeneratedMessage {
  const { order, day, totalCents, declaredCents } = drawOrder(draw, options, kind === "mismatch", number);
  const known = { orderId: order.order_id, userId: order.user_id, day };
  const body = kind === "invalid" ? draw.pick(INVALID_BODIES)(order) : JSON.stringify(order);
  const rejected = kind === "invalid" || (kind === "mismatch" && options.onValueMismatch === "reject");
  if (rejected) return { ...known, body, expected: "rejected", cents: 0 };
  if (kind === "mismatch") return { ...known, body, expected: "corrected", cents: totalCents };
  return { ...known, body, expected: "counted", cents: declaredCents };
}

type OrderBody = ReturnType<typeof drawOrder>["order"];

function drawOrder(draw: Draw, options: GeneratorOptions, mismatched: boolean, number: number) {
  const { day, timestamp } = drawTime(draw, options);
  const { items, totalCents } = drawItems(draw);
  const declaredCents = drawDeclared(draw, totalCents, mismatched);
  // The cube of a uniform draw: the first tenth of the users sends nearly half of the orders.
  const user = 1 + Math.floor(options.users * draw.fraction() ** 3);
  const order = {
    order_id: `O-${options.seed.toString(36)}-${number}`,
    user_id: `U${`${user}`.padStart(5, "0")}`,
    order_timestamp: timestamp,
    order_value: declaredCents / 100,
    items,
    shipping_address: `${1 + draw.below(999)} ${draw.pick(STREETS)}, ${draw.pick(CITIES)}`,
    payment_method: draw.pick(PAYMENT_METHODS),
  };
  return { order, day, totalCents, declaredCents };
}

/** The day is found by `Temporal`: it does not depend on the program's arithmetic. */
function drawTime(draw: Draw, { days, nowMs, timeZone = "UTC" }: GeneratorOptions): { day: string; timestamp: string } {
  const zonedAt = (ms: number) => Temporal.Instant.fromEpochMilliseconds(ms).toZonedDateTimeISO(timeZone);
  const todayMs = zonedAt(nowMs).startOfDay().epochMilliseconds;
  const dayMs = todayMs - draw.below(days) * DAY_MS;
  const atMs = dayMs + draw.below(dayMs === todayMs ? nowMs - todayMs + 1 : DAY_MS);
  const [zone, minutes] = draw.chance(15) ? draw.pick(Object.entries(ZONES)) : ["Z", 0];
  const local = new Date(atMs + minutes * 60_000).toISOString().slice(0, draw.chance(20) ? 23 : 19);
  return { day: zonedAt(atMs).toPlainDate().toString(), timestamp: local + zone };
}

/** Prices are integers of 1/10000, and so is their sum: the expected total does not depend on the program's arithmetic. */
function drawItems(draw: Draw) {
  let total = 0;
  const items = Array.from({ length: 1 + draw.below(5) }, () => {
    const quantity = draw.chance(70) ? 1 : 2 + draw.below(4);
    const price = drawPrice(draw);
    total += quantity * price;
    // The quotient is correctly rounded, so JSON shows exactly the decimal that was drawn.
    return { product_id: `P-${1_000 + draw.below(9_000)}`, quantity, price_per_unit: price / 10_000 };
  });
  return { items, totalCents: Math.floor((total + 50) / 100) };
}

/** 1.00 to 499.99, mostly small, in 1/10000. One in ten has fractions of a cent, half of those exactly half a cent. */
function drawPrice(draw: Draw): number {
  const cents = 100 + Math.floor(49_900 * draw.fraction() ** 3);
  if (!draw.chance(10)) return cents * 100;
  return cents * 100 + (draw.chance(50) ? 50 : draw.below(100));
}

/** A cent off is rounding of the sender: the declared value counts. No total is below 1.00, so every mismatch is 2 cents or more. */
function drawDeclared(draw: Draw, total: number, mismatched: boolean): number {
  if (mismatched) return draw.pick([total + 2, total - 2, total * 2, Math.floor(total / 2), total + 1_999, 0]);
  return draw.chance(10) ? total + draw.pick([1, -1]) : total;
}

const changed = (change: object) => (order: OrderBody) => JSON.stringify({ ...order, ...change });
const changedItem = (change: object) => (order: OrderBody) =>
  JSON.stringify({ ...order, items: [{ ...order.items[0], ...change }, ...order.items.slice(1)] });

/** Bodies that are no valid orders, each by another rule. `JSON.stringify` omits what is undefined. */
const INVALID_BODIES: ((order: OrderBody) => string)[] = [
  (order) => JSON.stringify(order).slice(0, -1),
  (order) => `order ${order.order_id}`,
  (order) => JSON.stringify([order]),
  ...[undefined, " ", 42, "U".repeat(129)].map((user_id) => changed({ user_id })),
  ...[undefined, "", null, "O".repeat(129)].map((order_id) => changed({ order_id })),
  ...[undefined, "99.99", -0.01, null].map((order_value) => changed({ order_value })),
  ...[undefined, "yesterday", "2024-02-30T10:00:00Z"].map((time) => changed({ order_timestamp: time })),
  ...[undefined, [], {}, [null]].map((items) => changed({ items })),
  ...[undefined, 0, -1, 1.5, "2"].map((quantity) => changedItem({ quantity })),
  ...[undefined, -5, "12.50", 1.23456].map((price_per_unit) => changedItem({ price_per_unit })),
  ...[undefined, ""].map((product_id) => changedItem({ product_id })),
  changed({ shipping_address: 7 }),
];

type Draw = ReturnType<typeof createDraw>;

function createDraw(seed: number) {
  const fraction = createRandom(seed);
  const below = (limit: number) => Math.floor(fraction() * limit);
  const chance = (percent: number) => fraction() * 100 < percent;
  const pick = <T>(list: readonly T[]): T => list[below(list.length)] as T;
  return { fraction, below, chance, pick };
}

/** mulberry32, because Math.random has no seed. Its period is 2^32 draws, about 10^8 orders. */
function createRandom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
