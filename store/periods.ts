interface Definition {
  name: string;
  /** Describes the format of a date of this period, for error messages and documentation. */
  form: string;
  /** @returns the date of this period that a day belongs to, such as `2024-W50` */
  dateOf(day: string): string;
  /** @returns a date that a client has sent, in the format of `dateOf`; undefined if it is invalid */
  parse(text: string): string | undefined;
}

/** The periods of leaderboards. CONTRIBUTING.md has the steps for a new one. */
const DEFINITIONS = {
  d: {
    name: "day",
    form: "a date, YYYY-MM-DD",
    dateOf: (day) => day,
    parse: (text) => (isDay(text) ? text : undefined),
  },
  w: { name: "ISO week", form: "an ISO week, YYYY-WW or YYYY-Www", dateOf: isoWeekOf, parse: parseIsoWeek },
  m: {
    name: "month",
    form: "a month, YYYY-MM",
    dateOf: (day) => day.slice(0, 7),
    parse: matching(/^\d{4}-(0[1-9]|1[0-2])$/),
  },
  y: { name: "year", form: "a year, YYYY", dateOf: (day) => day.slice(0, 4), parse: matching(/^\d{4}$/) },
} satisfies Record<string, Definition>;

export type Period = keyof typeof DEFINITIONS;
export const PERIODS = Object.keys(DEFINITIONS) as [Period, ...Period[]];

/** @returns the name of a period, such as "month", and the format of its dates, such as "a month, YYYY-MM" */
export const describePeriod = (period: Period) => ({ name: DEFINITIONS[period].name, form: DEFINITIONS[period].form });

/** @returns the names of the leaderboards that a day belongs to, such as `w:2024-W50`, in the order of `PERIODS` */
export const leaderboardsOf = (day: string) => PERIODS.map((period) => leaderboardOn(period, day));

/** @returns the name of the period's leaderboard that a day belongs to */
export const leaderboardOn = (period: Period, day: string) => `${period}:${DEFINITIONS[period].dateOf(day)}`;

/** @returns the name of the leaderboard of a date that a client has sent; undefined if the date is invalid for the period */
export function leaderboardOf(period: Period, date: string): string | undefined {
  const parsed = DEFINITIONS[period].parse(date);
  return parsed && `${period}:${parsed}`;
}

const DAY_MS = 86_400_000;

/** @returns whether `text` is an existing calendar date, `YYYY-MM-DD` */
export function isDay(text: string): boolean {
  const time = /^\d{4}-\d\d-\d\d$/.test(text) ? Date.parse(`${text}T00:00:00Z`) : Number.NaN;
  return !Number.isNaN(time) && dayOf(time) === text;
}

/** @returns every day from `from` to `to`, both included; none if `from` is after `to` */
export function daysBetween(from: string, to: string): string[] {
  const first = Date.parse(from);
  const count = Math.round((Date.parse(to) - first) / DAY_MS) + 1;
  return Array.from({ length: Math.max(count, 0) }, (_, index) => dayOf(first + index * DAY_MS));
}

/** @returns the UTC date of a time in ms since the epoch, `YYYY-MM-DD` */
export const dayOf = (ms: number) => new Date(ms).toISOString().slice(0, 10);

/** @returns the current date in a time zone, `YYYY-MM-DD` */
export const todayIn = (timeZone: string) => Temporal.Now.plainDateISO(timeZone).toString();

/** @returns `YYYY-Www`. A week belongs to the year of its Thursday (ISO 8601) */
function isoWeekOf(day: string): string {
  const { yearOfWeek, weekOfYear } = Temporal.PlainDate.from(day);
  return `${`${yearOfWeek}`.padStart(4, "0")}-W${`${weekOfYear}`.padStart(2, "0")}`;
}

function parseIsoWeek(text: string): string | undefined {
  const [, year, week] = /^(\d{4})-W?(\d\d)$/.exec(text) ?? [];
  if (!year) return undefined;
  // 4 January is always in week 1. A year has 52 or 53 weeks, so week 53 may be invalid.
  const day = dayOf(Date.parse(`${year}-01-04`) + (Number(week) - 1) * 7 * DAY_MS);
  const parsed = `${year}-W${week}`;
  return isDay(day) && isoWeekOf(day) === parsed ? parsed : undefined;
}

function matching(form: RegExp) {
  return (text: string) => (form.test(text) ? text : undefined);
}
