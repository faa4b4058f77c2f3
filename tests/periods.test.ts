import { describe, expect, test } from "bun:test";
import { daysBetween, isDay, leaderboardOf, leaderboardsOf, todayIn } from "../store/periods.ts";

describe("leaderboardsOf()", () => {
  test.each([
    // Weeks as ISO 8601 has them around the turn of a year
    ["2024-12-13", "2024-W50"],
    ["2024-12-29", "2024-W52"],
    ["2024-12-30", "2025-W01"],
    ["2025-01-01", "2025-W01"],
    ["2021-01-03", "2020-W53"],
    ["2021-01-04", "2021-W01"],
    ["2016-01-01", "2015-W53"],
    ["2024-02-29", "2024-W09"],
    ["0001-01-01", "0001-W01"],
    ["9999-12-31", "9999-W52"],
  ])("%s lies in week %s", (day, week) => {
    expect(leaderboardsOf(day)).toEqual([`d:${day}`, `w:${week}`, `m:${day.slice(0, 7)}`, `y:${day.slice(0, 4)}`]);
  });

  test("every day from 1990 to 2040 is in the week that its Thursday is in", () => {
    for (const day of daysBetween("1990-01-01", "2040-12-31")) {
      const [, week] = leaderboardsOf(day);
      const monday = new Date(Date.parse(day) - ((new Date(day).getUTCDay() + 6) % 7) * 86_400_000);
      const thursday = new Date(monday.getTime() + 3 * 86_400_000);
      const dayOfYear = (thursday.getTime() - Date.UTC(thursday.getUTCFullYear(), 0, 1)) / 86_400_000;
      const expected = `${thursday.getUTCFullYear()}-W${`${Math.floor(dayOfYear / 7) + 1}`.padStart(2, "0")}`;
      expect(week).toBe(`w:${expected}`);
    }
  });
});

describe("leaderboardOf()", () => {
  test.each([
    ["d", "2024-02-29", "d:2024-02-29"],
    ["w", "2024-05", "w:2024-W05"],
    ["w", "2024-W05", "w:2024-W05"],
    ["w", "2020-53", "w:2020-W53"],
    ["m", "2024-12", "m:2024-12"],
    ["y", "2024", "y:2024"],
  ] as const)("%s %s is %s", (period, date, board) => {
    expect(leaderboardOf(period, date)).toBe(board);
  });

  test.each([
    ["d", "2023-02-29"],
    ["d", "2024-1-1"],
    ["d", "2024-12"],
    ["d", "2024-12-13T00:00:00Z"],
    ["w", "2024-00"],
    ["w", "2024-53"],
    ["w", "2024-W53"],
    ["w", "2024-54"],
    ["w", "2024-W5"],
    ["w", "2024-12-13"],
    ["m", "2024-13"],
    ["m", "2024-00"],
    ["m", "2024-1"],
    ["y", "24"],
    ["y", "2024-01"],
    ["y", ""],
    ["y", "２０２４"],
  ] as const)("%s %s is nothing", (period, date) => {
    expect(leaderboardOf(period, date)).toBeUndefined();
  });
});

test("todayIn() is the date there: between UTC+14 and UTC-12 it differs by a day or two", () => {
  const [east, west] = [todayIn("Pacific/Kiritimati"), todayIn("Etc/GMT+12")];
  expect(daysBetween(west, east).length).toBeWithin(2, 4);
  expect(daysBetween(west, east)).toContain(todayIn("UTC"));
});

test("daysBetween() holds both ends and leap years", () => {
  expect(daysBetween("2024-02-28", "2024-03-01")).toEqual(["2024-02-28", "2024-02-29", "2024-03-01"]);
  expect(daysBetween("2024-03-01", "2024-03-01")).toEqual(["2024-03-01"]);
  expect(daysBetween("2024-03-02", "2024-03-01")).toEqual([]);
  expect(daysBetween("2024-01-01", "2024-12-31")).toHaveLength(366);
});

test.each([
  ["2024-02-29", true],
  ["2023-02-29", false],
  ["2024-04-31", false],
  ["2024-4-3", false],
  ["", false],
])("isDay(%j) is %j", (text, expected) => {
  expect(isDay(text)).toBe(expected);
});
