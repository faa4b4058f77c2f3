/** Parses the timestamps of orders. Pure functions that do not throw. */

import type { OffsetAt } from "./time-zone.ts";

const DAY_MS = 86_400_000;
const DATE_TIME =
  /^(\d{4}-\d\d-\d\d)[Tt]((?:[01]\d|2[0-3]):[0-5]\d):([0-5]\d|60)(?:\.\d+)?(?:[Zz]|([+-])([01]\d|2[0-3]):([0-5]\d))$/;

const [MIN_MS, MAX_MS] = [Date.parse("0001-01-01T00:00Z"), Date.parse("9999-12-31T23:59Z")];

export interface Timestamp {
  /** Since the epoch, to the second. */
  utcMs: number;
  /** The date as written. */
  date: string;
  /** The date and time as written, without the offset, as if in UTC. */
  writtenMs: number;
}

let lastParsed: { text: string; timestamp: Timestamp | undefined } = { text: "", timestamp: undefined };

/** Parses an RFC 3339 date-time, in UTC 0001-01-01 to 9999-12-31. @returns undefined for anything else */
export function parseTimestamp(text: string): Timestamp | undefined {
  // Every timestamp is parsed twice, by the schema and for the order.
  if (text !== lastParsed.text) lastParsed = { text, timestamp: parseNewTimestamp(text) };
  return lastParsed.timestamp;
}

function parseNewTimestamp(text: string): Timestamp | undefined {
  const [, date = "", time, second, sign, offsetHours, offsetMinutes] = DATE_TIME.exec(text) ?? [];
  const writtenMs = Date.parse(`${date}T${time}Z`);
  // Date.parse accepts some impossible dates: February 30th becomes a day in March.
  if (Number.isNaN(writtenMs) || (date.slice(8) > "28" && !isoTime(writtenMs).startsWith(date))) return undefined;
  const offsetMs = sign === undefined ? 0 : (Number(offsetHours) * 60 + Number(offsetMinutes)) * 60_000;
  const utcMs = sign === "-" ? writtenMs + offsetMs : writtenMs - offsetMs;
  // A leap second is the last second of a month in UTC (RFC 3339, section 5.7).
  if (second === "60" && !isoTime(utcMs + 60_000).endsWith("-01T00:00:00.000Z")) return undefined;
  if (utcMs < MIN_MS || utcMs > MAX_MS) return undefined;
  // The day of a leap second is that of the second before.
  return { utcMs: utcMs + Math.min(Number(second), 59) * 1000, date, writtenMs };
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
  const [, date] = DATE_TIME.exec(text) ?? [];
  if (date && !parseTimestamp(`${date}T12:00:00Z`)) return `must be on an existing date: there is no ${date}`;
  if (date) return "must be an existing time, in UTC in the years 0001 to 9999";
  if (parseTimestamp(`${text}Z`)) return "must end with Z or an offset such as +01:00";
  return "must be an RFC 3339 date-time such as 2024-12-13T10:00:00Z";
}

function isoTime(ms: number): string {
  return new Date(ms).toISOString();
}
