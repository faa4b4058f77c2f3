/** Message body -> judged order. Pure: no I/O, no clock, and no string makes it throw. */

import Type, { type Static } from "typebox";
import { Compile } from "typebox/compile";
import type { Order } from "../store/store.ts";

export type RejectReason = "invalid_json" | "invalid_order" | "value_mismatch";

export interface OrderError {
  /** JSON pointer (RFC 6901) into the body, `""` for the whole of it. */
  path: string;
  message: string;
}

export type Judged =
  | { outcome: "counted"; order: Order }
  /** `declared`: the `order_value` as sent. The order's cents are the total of its items. */
  | { outcome: "corrected"; order: Order; declared: number }
  /** The ids only where the body holds valid ones. */
  | { outcome: "rejected"; reason: RejectReason; errors: OrderError[]; orderId?: string; userId?: string };

export type OnValueMismatch = "correct" | "reject";

/**
 * The largest total of one order, in cents: 9,999,999,999.99. Sums over all orders are exact only below 2^53 cents,
 * so one order must stay far from that; and up to here its own sum, in 1/10000, is exact. What an order counts
 * for may be one cent more, where its `order_value` is.
 */
export const MAX_ORDER_CENTS = 999_999_999_999;

/** Errors travel in one message attribute, and the first few tell the story. */
const MAX_ERRORS = 20;

const idRule = rule<string>(isId, "must be a non-blank, well-formed string of at most 128 characters");
const stringRule = rule<string>((value) => typeof value === "string", "must be a string");

const headSchema = Type.Object({
  order_id: idRule,
  user_id: idRule,
  order_timestamp: rule<string>(isTimestamp, "must be an RFC 3339 date-time such as 2024-12-13T10:00:00Z"),
  order_value: rule<number>(isAmount, "must be a finite number of at least 0"),
  items: rule<unknown[]>((value) => Array.isArray(value) && value.length > 0, "must be a non-empty array"),
  shipping_address: Type.Optional(stringRule),
  payment_method: Type.Optional(stringRule),
});
const itemSchema = Type.Object({
  product_id: rule<string>(isText, "must be a non-blank string"),
  quantity: rule<number>((n) => Number.isInteger(n) && Number(n) >= 1, "must be an integer of at least 1"),
  price_per_unit: rule<number>(isPrice, "must be a finite number of at least 0 with at most 4 decimals"),
});
type Head = Static<typeof headSchema>;
type Item = Static<typeof itemSchema>;
const head = Compile(headSchema);
const item = Compile(itemSchema);

/**
 * Judges one message body. An `order_value` more than one cent away from the total of the items is replaced by
 * that total, or rejected, by `onValueMismatch`; otherwise it counts itself, rounded half up to cents. Of a key
 * sent twice the last value counts, as `JSON.parse` has it.
 */
export function judge(body: string, onValueMismatch: OnValueMismatch): Judged {
  let sent: unknown;
  try {
    sent = JSON.parse(body);
  } catch (error) {
    return rejected("invalid_json", {}, { path: "", message: `must be JSON: ${parserReason(error)}` });
  }
  if (!head.Check(sent) || !areItems(sent.items)) return rejected("invalid_order", sent, ...faultsOf(sent));
  return judgeValue(sent, totalCents(sent.items), onValueMismatch);
}

function judgeValue(sent: Head, total: number, onValueMismatch: OnValueMismatch): Judged {
  if (total > MAX_ORDER_CENTS) {
    const message = `must total at most ${asAmount(MAX_ORDER_CENTS)}, the limit of one order`;
    return rejected("invalid_order", sent, { path: "/items", message });
  }
  const { order_id: id, user_id: userId, order_value: declared } = sent;
  const order = { id, userId, cents: total, day: utcDay(sent.order_timestamp) as string };
  if (!differsByMoreThanOneCent(declared, total)) {
    return { outcome: "counted", order: { ...order, cents: declaredCents(declared, total) } };
  }
  if (onValueMismatch === "correct") return { outcome: "corrected", order, declared };
  const message = `must be the total of the items, ${asAmount(total)}, within one cent; is ${declared}`;
  return rejected("value_mismatch", sent, { path: "/order_value", message });
}

function rejected(reason: RejectReason, sent: unknown, ...errors: OrderError[]): Judged {
  const { order_id: orderId, user_id: userId } = Object(sent);
  const ids = { ...(isId(orderId) && { orderId }), ...(isId(userId) && { userId }) };
  return { outcome: "rejected", reason, errors, ...ids };
}

/** The parser quotes what it stumbled over; a customer's data has no place in an error. */
function parserReason(error: unknown): string {
  return String(error)
    .replace(/^SyntaxError: JSON Parse error: /, "")
    .replace(/".*"|(?<=token |character ).*/s, '"..."')
    .slice(0, 100);
}

function areItems(items: unknown[]): items is Item[] {
  return items.every((each) => item.Check(each));
}

/** Names faults until there are enough and only counts invalid items from there: a body holds half a million. */
function faultsOf(sent: unknown): OrderError[] {
  const errors = schemaErrors(head, sent, "");
  const items = (sent as Partial<Head> | null)?.items;
  let unnamed = 0;
  for (const [index, each] of Array.isArray(items) ? items.entries() : []) {
    if (item.Check(each)) continue;
    if (errors.length > MAX_ERRORS) unnamed++;
    else errors.push(...schemaErrors(item, each, `/items/${index}`));
  }
  if (errors.length <= MAX_ERRORS) return errors;
  const named = errors.slice(0, MAX_ERRORS - 1);
  const more = errors.length - named.length + unnamed;
  return [...named, { path: "", message: `and at least ${more} more errors` }];
}

/** TypeBox names at most 8 errors a call; neither schema has more fields. */
function schemaErrors(schema: typeof head | typeof item, value: unknown, path: string): OrderError[] {
  return schema.Errors(value).flatMap((error) => {
    if (error.keyword === "type") return { path, message: `must be an object, is ${described(value)}` };
    if (error.keyword !== "required") return { path: path + error.instancePath, message: error.message };
    return error.params.requiredProperties.map((key) => ({ path: `${path}/${key}`, message: "is required" }));
  });
}

/** Any type at all, held to one check: one fault, one message, whether type or value is wrong. */
function rule<T>(isValid: (value: unknown) => boolean, message: string) {
  return Type.Refine(Type.Unsafe<T>({}), isValid, (value) => `${message}, is ${described(value)}`);
}

/** Short printable ASCII: SQS refuses control characters and U+FFFE in an attribute. */
function described(value: unknown): string {
  if (Array.isArray(value)) return value.length === 0 ? "an empty array" : "an array";
  if (typeof value === "object" && value !== null) return "an object";
  const text = typeof value === "string" ? JSON.stringify(value.slice(0, 40)) : String(value);
  const cut = typeof value === "string" && value.length > 40 ? `... (${value.length} characters)` : "";
  return text.replace(/[^ -~]/g, "?").slice(0, 60) + cut;
}

function isText(value: unknown): value is string {
  return typeof value === "string" && value.trim() !== "";
}

/** Stored as UTF-8 every lone surrogate becomes U+FFFD, and different ids would be counted as one. */
function isId(value: unknown): value is string {
  if (!isText(value) || !value.isWellFormed()) return false;
  // A character is one or two UTF-16 units: only lengths between need counting.
  return value.length <= 128 || (value.length <= 256 && [...value].length <= 128);
}

function isAmount(value: unknown): value is number {
  return typeof value === "number" && value >= 0 && value < Infinity;
}

function isTimestamp(value: unknown): boolean {
  return typeof value === "string" && utcDay(value) !== undefined;
}

/**
 * A correctly rounded division gives the double nearest to its decimal, so the two are equal only where the price
 * is that decimal. A price too large to scale exactly passes: it breaks the limit of the total.
 */
function isPrice(value: unknown): boolean {
  return isAmount(value) && (value > MAX_ORDER_CENTS / 100 + 1 || tenThousandths(value) / 10_000 === value);
}

function tenThousandths(price: number): number {
  return Math.round(price * 10_000);
}

/** Cents: Σ quantity × price, rounded half up once. Exact up to the limit; beyond it, only certain to be beyond it. */
function totalCents(items: Item[]): number {
  let sum = 0;
  for (const each of items) sum += each.quantity * tenThousandths(each.price_per_unit);
  return Math.floor((sum + 50) / 100);
}

/** Exact: an amount with two decimals, divided, is the very double that its decimal text parses to. */
function differsByMoreThanOneCent(declared: number, total: number): boolean {
  return declared > (total + 1) / 100 || declared < (total - 1) / 100;
}

/** `declared`, within one cent of `total`, rounded half up. Compared, since 1.005 * 100 is less than 100.5. */
function declaredCents(declared: number, total: number): number {
  if (declared >= (2 * total + 1) / 200) return total + 1;
  return declared >= (2 * total - 1) / 200 ? total : total - 1;
}

function asAmount(cents: number): string {
  return (cents / 100).toFixed(2);
}

const DATE_TIME =
  /^(\d{4}-\d\d-\d\d)[Tt]((?:[01]\d|2[0-3]):[0-5]\d):([0-5]\d|60)(?:\.\d+)?(?:[Zz]|([+-])([01]\d|2[0-3]):([0-5]\d))$/;

let lastRead: { timestamp: string; day: string | undefined } = { timestamp: "", day: undefined };

/** The UTC date of an RFC 3339 date-time, 0001-01-01 to 9999-12-31; undefined for anything else. */
function utcDay(timestamp: string): string | undefined {
  // Each is asked for twice, by the check and by the order.
  if (timestamp !== lastRead.timestamp) lastRead = { timestamp, day: readUtcDay(timestamp) };
  return lastRead.day;
}

function readUtcDay(timestamp: string): string | undefined {
  const [, date = "", time, second, sign, offsetHours, offsetMinutes] = DATE_TIME.exec(timestamp) ?? [];
  const localMs = Date.parse(`${date}T${time}Z`);
  // Date.parse lets some impossible dates, such as February 30th, roll over into the next month.
  if (Number.isNaN(localMs) || (date.slice(8) > "28" && !isoTime(localMs).startsWith(date))) return undefined;
  const offsetMs = sign === undefined ? 0 : (Number(offsetHours) * 60 + Number(offsetMinutes)) * 60_000;
  const utcMs = sign === "-" ? localMs + offsetMs : localMs - offsetMs;
  // A leap second ends a month in UTC (RFC 3339, section 5.7): the next minute is the first of the month.
  if (second === "60" && !isoTime(utcMs + 60_000).endsWith("-01T00:00:00.000Z")) return undefined;
  const day = utcMs === localMs ? date : isoTime(utcMs).slice(0, 10);
  // Outside four-digit years the text begins with a sign, which sorts before the digits.
  return day >= "0001-01-01" ? day : undefined;
}

function isoTime(ms: number): string {
  return new Date(ms).toISOString();
}
