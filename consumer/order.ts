/** Validates message bodies. Pure functions: no I/O, no clock, and they do not throw for any string. */

import { MAX_ORDER_CENTS, type Order } from "../store/store.ts";
import { type Envelope, type Opened, openEnvelope } from "./envelope.ts";
import { describeJsonError } from "./json.ts";
import type { OffsetAt } from "./time-zone.ts";
import { localDay, parseTimestamp, type Timestamp, timestampRule } from "./timestamp.ts";

export type RejectReason = "invalid_json" | "invalid_order" | "value_mismatch";

export interface OrderError {
  /** JSON pointer (RFC 6901) into the body; `""` is the whole body. */
  path: string;
  message: string;
}

/** What is reported about a valid order without changing how it is counted. */
export interface Notes {
  currency: string | undefined;
  /** The day of an order more than a day ahead or before `OLDEST_DAY`: the clock of its sender is probably wrong. */
  implausibleDate: { direction: "future" | "past"; day: string } | undefined;
}

export type ValidationResult = { envelope?: Envelope } & (
  | { outcome: "counted"; order: Order; notes?: Notes | undefined }
  /** `declared` is the `order_value` as sent; `order.cents` is the total of the items. */
  | { outcome: "corrected"; order: Order; declared: number; notes?: Notes | undefined }
  /** The ids are set if they are valid. */
  | { outcome: "rejected"; reason: RejectReason; errors: OrderError[]; orderId?: string; userId?: string }
);

export type OnValueMismatch = "correct" | "reject";

export interface DateCheck {
  /** The current time in ms since the epoch. */
  nowMs: number;
  onImplausibleDate: "count" | "reject";
}

interface ValidationOptions {
  /** The offsets of the time zone whose date is the day of the order. Default: UTC */
  offsetAt?: OffsetAt;
  /** Absent: every date is plausible. */
  dates?: DateCheck | undefined;
}

const utc: OffsetAt = () => 0;
const OLDEST_DAY = "2000-01-01";
const DAY_MS = 86_400_000;

/** All errors must fit into one message attribute, and the first few are enough to fix the producer. */
const MAX_ERRORS = 20;

/** What a field must be, with one message for a wrong type and a wrong value alike. */
interface Rule {
  field: string;
  isValid(value: unknown): boolean;
  message: string | ((value: unknown) => string);
  optional?: boolean;
}

interface Head {
  order_id: string;
  user_id: string;
  order_timestamp: string;
  order_value: number;
  items: unknown[];
}
interface Item {
  quantity: number;
  price_per_unit: number;
}

// Not a TypeBox schema: each rule would be a function there too, and loading TypeBox takes each worker 80 ms.
const idMessage = "must be a non-blank, well-formed string of at most 128 characters";
const headRules: Rule[] = [
  { field: "order_id", isValid: isId, message: idMessage },
  { field: "user_id", isValid: isId, message: idMessage },
  { field: "order_timestamp", isValid: isTimestamp, message: timestampRule },
  { field: "order_value", isValid: isAmount, message: "must be a finite number of at least 0" },
  { field: "items", isValid: isNonEmptyArray, message: "must be a non-empty array" },
  { field: "shipping_address", isValid: isString, message: "must be a string", optional: true },
  { field: "payment_method", isValid: isString, message: "must be a string", optional: true },
];
const priceMessage = "must be a finite number of at least 0 with at most 4 decimals";
const itemRules: Rule[] = [
  { field: "product_id", isValid: isText, message: "must be a non-blank string" },
  { field: "quantity", isValid: isQuantity, message: "must be an integer of at least 1" },
  { field: "price_per_unit", isValid: isPrice, message: priceMessage },
];

/**
 * Validates one message body: an order, or an envelope that contains one. If `order_value` differs from the total of the items by
 * more than one cent, the order is counted with that total ("correct") or rejected ("reject"). Otherwise it is counted with
 * `order_value`, rounded half up to cents. If a key occurs twice, its last value is used, as in `JSON.parse`. Never throws.
 */
export function validateOrder(
  body: string,
  onValueMismatch: OnValueMismatch,
  options: ValidationOptions = {},
): ValidationResult {
  let sent: unknown;
  try {
    sent = JSON.parse(body);
  } catch (error) {
    return rejected("invalid_json", {}, { path: "", message: `must be JSON: ${describeJsonError(error, body)}` });
  }
  const opened = openEnvelope(sent);
  return opened ? checkOpened(opened, onValueMismatch, options) : checkOrder(sent, onValueMismatch, options);
}

function checkOpened(opened: Opened, onValueMismatch: OnValueMismatch, options: ValidationOptions): ValidationResult {
  const { envelope, path, content, problem } = opened;
  const result = problem
    ? rejected(problem.reason, {}, { path: "", message: problem.message })
    : checkOrder(content, onValueMismatch, options);
  if (result.outcome !== "rejected") return { ...result, envelope };
  const errors = result.errors.map((error) => ({ ...error, path: path + error.path }));
  return { ...result, envelope, errors };
}

function checkOrder(sent: unknown, onValueMismatch: OnValueMismatch, options: ValidationOptions): ValidationResult {
  if (!isHead(sent) || !sent.items.every(isItem)) return rejected("invalid_order", sent, ...errorsOf(sent));
  const { offsetAt = utc, dates } = options;
  const timestamp = parseTimestamp(sent.order_timestamp) as Timestamp;
  const day = localDay(timestamp, offsetAt);
  if (day === undefined) return wrongDate(sent, "must be in the years 0001 to 9999 in TIME_ZONE too");
  const implausibleDate = dates && findImplausibleDate(timestamp, day, dates);
  if (implausibleDate && dates.onImplausibleDate === "reject")
    return wrongDate(sent, `must not be before ${OLDEST_DAY} or more than a day ahead: is on ${day}`);
  const currency = currencyOf(sent);
  const notes = currency !== undefined || implausibleDate ? { currency, implausibleDate } : undefined;
  const order = { id: sent.order_id, userId: sent.user_id, cents: totalCents(sent.items as Item[]), day };
  return checkValue(sent, order, onValueMismatch, notes);
}

function wrongDate(sent: Head, message: string): ValidationResult {
  return rejected("invalid_order", sent, { path: "/order_timestamp", message });
}

/** @param order with the total of the items, which is replaced by `order_value` if that is within one cent */
function checkValue(sent: Head, order: Order, onValueMismatch: OnValueMismatch, notes?: Notes): ValidationResult {
  const { cents: total } = order;
  if (total > MAX_ORDER_CENTS) {
    const message = `must total at most ${asAmount(MAX_ORDER_CENTS)}, the limit of one order`;
    return rejected("invalid_order", sent, { path: "/items", message });
  }
  const { order_value: declared } = sent;
  if (!differsByMoreThanOneCent(declared, total)) {
    order.cents = declaredCents(declared, total);
    return { outcome: "counted", order, notes };
  }
  if (onValueMismatch === "correct") return { outcome: "corrected", order, declared, notes };
  const message = `must be the total of the items, ${asAmount(total)}, within one cent; is ${declared}`;
  return rejected("value_mismatch", sent, { path: "/order_value", message });
}

function findImplausibleDate({ utcMs }: Timestamp, day: string, { nowMs }: DateCheck): Notes["implausibleDate"] {
  if (day < OLDEST_DAY) return { direction: "past", day };
  return utcMs > nowMs + DAY_MS ? { direction: "future", day } : undefined;
}

function currencyOf(sent: Head & { currency?: unknown }): string | undefined {
  return typeof sent.currency === "string" ? sent.currency : undefined;
}

function rejected(reason: RejectReason, sent: unknown, ...errors: OrderError[]): ValidationResult {
  const { order_id: orderId, user_id: userId } = Object(sent);
  const ids = { ...(isId(orderId) && { orderId }), ...(isId(userId) && { userId }) };
  return { outcome: "rejected", reason, errors, ...ids };
}

const isHead = (value: unknown): value is Head => follows(headRules, value);
const isItem = (value: unknown): value is Item => follows(itemRules, value);

function follows(rules: readonly Rule[], value: unknown): boolean {
  if (!isObject(value)) return false;
  for (const rule of rules) if (!isFieldValid(rule, value)) return false;
  return true;
}

function isFieldValid({ field, isValid, optional }: Rule, value: Record<string, unknown>): boolean {
  return isValid(value[field]) || (optional === true && value[field] === undefined);
}

/** Describes the first errors. Further invalid items are only counted, because a body can contain half a million items. */
function errorsOf(sent: unknown): OrderError[] {
  const errors = fieldErrors(headRules, sent, "");
  const items = (sent as Partial<Head> | null)?.items;
  let undescribed = 0;
  for (const [index, each] of Array.isArray(items) ? items.entries() : []) {
    if (isItem(each)) continue;
    if (errors.length > MAX_ERRORS) undescribed++;
    else errors.push(...fieldErrors(itemRules, each, `/items/${index}`));
  }
  if (errors.length <= MAX_ERRORS) return errors;
  const first = errors.slice(0, MAX_ERRORS - 1);
  const more = errors.length - first.length + undescribed;
  return [...first, { path: "", message: `and at least ${more} more errors` }];
}

function fieldErrors(rules: readonly Rule[], value: unknown, path: string): OrderError[] {
  if (!isObject(value)) return [{ path, message: `must be an object, is ${described(value)}` }];
  const broken = rules.filter((rule) => !isFieldValid(rule, value));
  return broken.map((rule) => ({ path: `${path}/${rule.field}`, message: describeRule(rule, value[rule.field]) }));
}

function describeRule({ message }: Rule, value: unknown): string {
  if (value === undefined) return "is required";
  return `${typeof message === "string" ? message : message(value)}, is ${described(value)}`;
}

/** @returns a value as short printable ASCII: SQS rejects control characters and U+FFFE in a message attribute */
function described(value: unknown): string {
  if (Array.isArray(value)) return value.length === 0 ? "an empty array" : "an array";
  if (typeof value === "object" && value !== null) return "an object";
  const text = typeof value === "string" ? JSON.stringify(value.slice(0, 40)) : String(value);
  const cut = typeof value === "string" && value.length > 40 ? `... (${value.length} characters)` : "";
  return text.replace(/[^ -~]/g, "?").slice(0, 60) + cut;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isString(value: unknown): boolean {
  return typeof value === "string";
}

function isText(value: unknown): value is string {
  return typeof value === "string" && value.trim() !== "";
}

/** A lone surrogate is not valid: stored as UTF-8 it becomes U+FFFD, so different ids would become the same id. */
function isId(value: unknown): value is string {
  if (!isText(value) || !value.isWellFormed()) return false;
  // A character is one or two UTF-16 units, so characters must be counted only between 128 and 256 units.
  return value.length <= 128 || (value.length <= 256 && [...value].length <= 128);
}

function isAmount(value: unknown): value is number {
  return typeof value === "number" && value >= 0 && value < Infinity;
}

function isNonEmptyArray(value: unknown): boolean {
  return Array.isArray(value) && value.length > 0;
}

function isQuantity(value: unknown): boolean {
  return Number.isInteger(value) && Number(value) >= 1;
}

function isTimestamp(value: unknown): boolean {
  return typeof value === "string" && parseTimestamp(value) !== undefined;
}

/**
 * Accepts at most four decimals. IEEE division is correctly rounded: n / 10000 is the double nearest to that decimal, and equals
 * `value` only if `value` is that decimal. A price too large to be scaled exactly passes here and exceeds the limit of the total.
 */
function isPrice(value: unknown): boolean {
  return isAmount(value) && (value > MAX_ORDER_CENTS / 100 + 1 || tenThousandths(value) / 10_000 === value);
}

function tenThousandths(price: number): number {
  return Math.round(price * 10_000);
}

/**
 * @returns the sum of quantity × price in cents, rounded half up once. Exact up to `MAX_ORDER_CENTS`; a larger sum may be rounded,
 *   but never down to that limit
 */
function totalCents(items: Item[]): number {
  let sum = 0;
  for (const each of items) sum += each.quantity * tenThousandths(each.price_per_unit);
  return Math.floor((sum + 50) / 100);
}

/** Exact, because cents / 100 is the same double as the parsed text of an amount with two decimals. */
function differsByMoreThanOneCent(declared: number, total: number): boolean {
  return declared > (total + 1) / 100 || declared < (total - 1) / 100;
}

/**
 * @returns `declared`, which is within one cent of `total`, rounded half up to cents, at most `MAX_ORDER_CENTS`. Not
 *   `declared * 100`: 1.005 * 100 < 100.5
 */
function declaredCents(declared: number, total: number): number {
  if (declared >= (2 * total + 1) / 200) return Math.min(total + 1, MAX_ORDER_CENTS);
  return declared >= (2 * total - 1) / 200 ? total : total - 1;
}

function asAmount(cents: number): string {
  return (cents / 100).toFixed(2);
}
