/** The periods of a board: day, ISO 8601 week, month, year, all in UTC. */
export const PERIODS = ["d", "w", "m", "y"] as const;
export type Period = (typeof PERIODS)[number];

const DAY_MS = 86_400_000;
const FORMS: Record<Period, RegExp> = {
  d: /^\d{4}-\d\d-\d\d$/,
  w: /^\d{4}-W\d\d$/,
  m: /^\d{4}-(0[1-9]|1[0-2])$/,
  y: /^\d{4}$/,
};

/** Whether `text` is a real calendar date, `YYYY-MM-DD`. */
export function isDay(text: string): boolean {
  const time = FORMS.d.test(text) ? Date.parse(`${text}T00:00:00Z`) : Number.NaN;
  return !Number.isNaN(time) && dayOf(time) === text;
}

/** The names of the four boards an order of this day stands on, in the order of `PERIODS`. */
export function boardsOf(day: string): [string, string, string, string] {
  return [`d:${day}`, `w:${isoWeekOf(day)}`, `m:${day.slice(0, 7)}`, `y:${day.slice(0, 4)}`];
}

/** The board that a period and its date name (a week as `YYYY-WW` or `YYYY-Www`); undefined where there is none. */
export function boardOf(period: Period, date: string): string | undefined {
  const text = period === "w" ? date.replace(/^(\d{4})-(\d\d)$/, "$1-W$2") : date;
  if (!FORMS[period].test(text)) return undefined;
  if (period === "d" && !isDay(text)) return undefined;
  if (period === "w" && !isWeek(text)) return undefined;
  return `${period}:${text}`;
}

/** Every day from `from` to `to`, both included. */
export function daysBetween(from: string, to: string): string[] {
  const first = Date.parse(from);
  const count = Math.round((Date.parse(to) - first) / DAY_MS) + 1;
  return Array.from({ length: Math.max(count, 0) }, (_, index) => dayOf(first + index * DAY_MS));
}

/** The UTC date of a moment, `YYYY-MM-DD`. */
export function dayOf(time: number): string {
  return new Date(time).toISOString().slice(0, 10);
}

/** `YYYY-Www` of a day. A week belongs to the year of its Thursday (ISO 8601). */
function isoWeekOf(day: string): string {
  const time = Date.parse(day);
  const weekday = (new Date(time).getUTCDay() + 6) % 7;
  const thursday = dayOf(time + (3 - weekday) * DAY_MS);
  const year = thursday.slice(0, 4);
  const week = Math.floor((Date.parse(thursday) - Date.parse(`${year}-01-01`)) / (7 * DAY_MS)) + 1;
  return `${year}-W${String(week).padStart(2, "0")}`;
}

/** A year has 52 or 53 weeks; 4 January always lies in the first. */
function isWeek(text: string): boolean {
  const fourth = Date.parse(`${text.slice(0, 4)}-01-04`);
  const day = fourth + (Number(text.slice(6)) - 1) * 7 * DAY_MS;
  return isoWeekOf(dayOf(day)) === text;
}
