/** Parses the timestamps of orders. Pure functions that do not throw. */

import type { OffsetAt } from "./time-zone.ts";

const DAY_MS = 86_400_000;
const DATE_TIME =
  /^\d{4}-\d\d-\d\d[Tt](?:[01]\d|2[0-3]):[0-5]\d:(?:[0-5]\d|60)(?:\.\d+)?(?:[Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d)$/;
/** After 400 years the calendar repeats. Date.UTC takes the years 0 to 99 for 1900 to 1999, but not 400 to 499. */
const [CYCLE_YEARS, CYCLE_MS] = [400, 146_097 * DAY_MS];

const [MIN_MS, MAX_MS] = [Date.parse("0001-01-01T00:00Z"), Date.parse("9999-12-31T23:59Z")];

export interface Timestamp {
  /** Since the epoch, to the second. */
  utcMs: number;
  /** The date as written. */
  date: string;
  /** The date and time as written, without the offset, as if in UTC. */
  writtenMs: number;
}

/** Parses an RFC 3339 date-time, in UTC 0001-01-01 to 9999-12-31. @returns undefined for anything else */
export function parseTimestamp(text: string): Timestamp | undefined {
  if (!DATE_TIME.test(text)) return undefined;
  const [month, day, second] = [digits(text, 5, 7), digits(text, 8, 10), digits(text, 17, 19)];
  const [hour, minute] = [digits(text, 11, 13), digits(text, 14, 16)];
  const writtenMs = Date.UTC(digits(text, 0, 4) + CYCLE_YEARS, month - 1, day, hour, minute) - CYCLE_MS;
  // Date.UTC accepts impossible dates: February 30th becomes a day in March.
  const written = new Date(writtenMs);
  if (written.getUTCMonth() + 1 !== month || written.getUTCDate() !== day) return undefined;
  const utcMs = writtenMs - offsetMs(text);
  // A leap second is the last second of a month in UTC (RFC 3339, section 5.7).
  if (second === 60 && !isoTime(utcMs + 60_000).endsWith("-01T00:00:00.000Z")) return undefined;
  if (utcMs < MIN_MS || utcMs > MAX_MS) return undefined;
  // The day of a leap second is that of the second before.
  return { utcMs: utcMs + Math.min(second, 59) * 1000, date: text.slice(0, 10), writtenMs };
}

/** @returns the number in decimal digits. Not Number(text.slice(start, end)), which takes several times as long */
function digits(text: string, start: number, end: number): number {
  let number = 0;
  for (let at = start; at < end; at++) number = number * 10 + text.charCodeAt(at) - 48;
  return number;
}

function offsetMs(text: string): number {
  const { length } = text;
  const sign = text[length - 6];
  if (sign !== "+" && sign !== "-") return 0;
  const minutes = digits(text, length - 5, length - 3) * 60 + digits(text, length - 2, length);
  return (sign === "-" ? -minutes : minutes) * 60_000;
}

let lastFormatted = { dayNumber: Number.NaN, text: "" };

/** @returns the date in the time zone; undefined outside of the years 0001 to 9999 */
export function localDay({ utcMs, date, writtenMs }: Timestamp, offsetAt: OffsetAt): string | undefined {
  const localMs = utcMs + offsetAt(utcMs);
  const dayNumber = Math.floor(localMs / DAY_MS);
  const isWritten = dayNumber === Math.floor(writtenMs / DAY_MS);
  // Formatting a date takes a tenth of the whole validation. Most orders are of the same day as the one before.
  if (!isWritten && dayNumber !== lastFormatted.dayNumber)
    lastFormatted = { dayNumber, text: isoTime(localMs).slice(0, 10) };
  const day = isWritten ? date : lastFormatted.text;
  // Years of more than four digits begin with a sign, which sorts before the digits.
  return day >= "0001-01-01" ? day : undefined;
}

/** @returns what `value`, which is not valid, must be: precisely for the common mistakes */
export function timestampRule(value: unknown): string {
  const text = typeof value === "string" ? value : "";
  const date = DATE_TIME.test(text) ? text.slice(0, 10) : undefined;
  if (date && !parseTimestamp(`${date}T12:00:00Z`)) return `must be on an existing date: there is no ${date}`;
  if (date) return "must be an existing time, in UTC in the years 0001 to 9999";
  if (parseTimestamp(`${text}Z`)) return "must end with Z or an offset such as +01:00";
  return "must be an RFC 3339 date-time such as 2024-12-13T10:00:00Z";
}

function isoTime(ms: number): string {
  return new Date(ms).toISOString();
}
