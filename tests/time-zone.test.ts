import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { validateOrder } from "../consumer/order.ts";
import { createOffsetAt, type OffsetAt } from "../consumer/time-zone.ts";
import { leaderboardsOf } from "../store/periods.ts";
import { body } from "./support/orders.ts";

// Some seconds alone: bun's five would fail on a busy machine.
setDefaultTimeout(120_000);

/** With daylight saving of an hour and of half an hour, at a minute past midnight, at midnight, twice a year, in Ramadan, and without. */
const ZONES = [
  "Europe/Berlin",
  "America/St_Johns",
  "America/Sao_Paulo",
  "Australia/Lord_Howe",
  "Africa/Monrovia",
  "Africa/Casablanca",
  "Pacific/Apia",
  "Asia/Kathmandu",
  "Antarctica/Troll",
  "Asia/Tehran",
];
const HOUR_MS = 3_600_000;
const [FROM_MS, TO_MS] = [Date.UTC(1970, 0), Date.UTC(2101, 0)];

const zonedAt = (timeZone: string, ms: number) =>
  Temporal.Instant.fromEpochMilliseconds(ms).toZonedDateTimeISO(timeZone);

/** The day that a valid order with this timestamp counts for; undefined if it is rejected. */
function dayOf(timestamp: string, offsetAt: OffsetAt): string | undefined {
  const result = validateOrder(body({ order_timestamp: timestamp }), "correct", { offsetAt });
  return result.outcome === "rejected" ? undefined : result.order.day;
}

/** Every hour from two days before to two days after each change of the offset and each turn of the year and of February. */
function* hoursOfInterest(timeZone: string) {
  const centres: number[] = [];
  for (let at: Temporal.ZonedDateTime | null = zonedAt(timeZone, FROM_MS); at && at.epochMilliseconds < TO_MS; ) {
    centres.push(at.epochMilliseconds);
    at = at.getTimeZoneTransition("next");
  }
  for (let year = 1970; year <= 2100; year++) centres.push(Date.UTC(year, 0), Date.UTC(year, 2));
  for (const centre of centres)
    for (let hours = -48; hours <= 48; hours++)
      // Also a second before and at the change itself, which may be at any minute.
      yield* hours === 0 ? [centre - 1_000, centre] : [centre + hours * HOUR_MS];
}

describe.each(ZONES)("%s", (timeZone) => {
  const offsetAt = createOffsetAt(timeZone);

  test("the offset equals that of Temporal in every hour from 1970 to 2100", () => {
    let differing = 0;
    for (let ms = FROM_MS; ms < TO_MS; ms += HOUR_MS)
      if (offsetAt(ms) !== zonedAt(timeZone, ms).offsetNanoseconds / 1e6) differing++;
    expect(differing).toBe(0);
  });

  test("the day of an order equals that of Temporal around each change of the offset, new year and leap day", () => {
    const differing: string[] = [];
    let checked = 0;
    for (const ms of hoursOfInterest(timeZone)) {
      checked++;
      const timestamp = new Date(ms).toISOString();
      const expected = zonedAt(timeZone, ms).toPlainDate().toString();
      if (dayOf(timestamp, offsetAt) !== expected) differing.push(`${timestamp}: ${expected}`);
    }
    expect(differing).toEqual([]);
    expect(checked).toBeGreaterThan(25_000);
  });
});

test("the offset does not depend on the order of the calls, nor on the years read in advance", () => {
  const years = 8_000 * 366 * 24 * HOUR_MS;
  const times = Array.from({ length: 20_000 }, (_, index) => Date.UTC(1, 0) + ((index * 7_919_777_777) % years));
  for (const timeZone of ZONES) {
    const offsetAt = createOffsetAt(timeZone);
    const offsets = times.map(offsetAt);
    expect(offsets).toEqual(times.map((ms) => zonedAt(timeZone, ms).offsetNanoseconds / 1e6));
  }
});

test.each([
  // As written in another offset, and in the own one
  ["Europe/Berlin", "2024-12-13T23:30:00Z", "2024-12-14"],
  ["Europe/Berlin", "2024-12-14T00:30:00+01:00", "2024-12-14"],
  ["Europe/Berlin", "2024-12-13T23:30:00+01:00", "2024-12-13"],
  ["America/New_York", "2024-12-14T04:59:59.999Z", "2024-12-13"],
  ["America/New_York", "2024-12-14T05:00:00Z", "2024-12-14"],
  // Clocks are set back from 00:01 to 23:01 of the day before, and forward from 00:01
  ["America/St_Johns", "2010-11-07T02:30:59Z", "2010-11-07"],
  ["America/St_Johns", "2010-11-07T02:31:00Z", "2010-11-06"],
  ["America/St_Johns", "2010-11-07T03:30:00Z", "2010-11-07"],
  // No 30 December 2011
  ["Pacific/Apia", "2011-12-30T09:59:59Z", "2011-12-29"],
  ["Pacific/Apia", "2011-12-30T10:00:00Z", "2011-12-31"],
  // 44 minutes and 30 seconds behind, until January 1972
  ["Africa/Monrovia", "1972-01-07T00:44:29Z", "1972-01-06"],
  ["Africa/Monrovia", "1971-06-01T00:44:29Z", "1971-05-31"],
  ["Africa/Monrovia", "1971-06-01T00:44:30Z", "1971-06-01"],
  // The last day of a leap year, a leap day, and leap seconds
  ["Asia/Kathmandu", "2024-12-31T18:15:00Z", "2025-01-01"],
  ["Asia/Kathmandu", "2024-02-28T18:15:00Z", "2024-02-29"],
  ["Europe/Berlin", "2016-12-31T23:59:60Z", "2017-01-01"],
  ["America/New_York", "2016-12-31T18:59:60-05:00", "2016-12-31"],
  // The first and the last year of the calendar
  ["America/New_York", "0001-01-01T12:00:00Z", "0001-01-01"],
  ["America/New_York", "0001-01-01T00:00:00Z", undefined],
  ["Europe/Berlin", "9999-12-31T22:59:59Z", "9999-12-31"],
  ["Europe/Berlin", "9999-12-31T23:00:00Z", undefined],
])("in %s the day of %s is %s", (timeZone, timestamp, day) => {
  expect(dayOf(timestamp, createOffsetAt(timeZone))).toBe(day as string);
});

test("an order outside of the years 0001 to 9999 in the time zone is rejected", () => {
  const sent = body({ order_timestamp: "9999-12-31T23:00:00Z" });
  expect(validateOrder(sent, "correct", { offsetAt: createOffsetAt("Europe/Berlin") })).toMatchObject({
    reason: "invalid_order",
    errors: [{ path: "/order_timestamp", message: "must be in the years 0001 to 9999 in TIME_ZONE too" }],
  });
  expect(validateOrder(sent, "correct").outcome).toBe("counted");
});

test("the week, month and year of an order are those of its day there", () => {
  const at = (timeZone: string) => leaderboardsOf(dayOf("2024-12-29T23:30:00Z", createOffsetAt(timeZone)) ?? "");
  expect(at("UTC")).toEqual(["d:2024-12-29", "w:2024-W52", "m:2024-12", "y:2024"]);
  expect(at("Europe/Berlin")).toEqual(["d:2024-12-30", "w:2025-W01", "m:2024-12", "y:2024"]);
  const newYear = leaderboardsOf(dayOf("2025-01-01T04:30:00Z", createOffsetAt("America/New_York")) ?? "");
  expect(newYear).toEqual(["d:2024-12-31", "w:2025-W01", "m:2024-12", "y:2024"]);
});
