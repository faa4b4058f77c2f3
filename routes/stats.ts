import { Elysia, t } from "elysia";
import { daysBetween, isDay } from "../store/periods.ts";
import type { Reads } from "../store/share.ts";
import type { Totals } from "../store/store.ts";
import { toAmount } from "./amount.ts";
import { unlessKnown } from "./etag.ts";
import { AMOUNT, AS_OF, asOf, COUNT, object, operation } from "./openapi.ts";
import { fromStore, Problem } from "./problem.ts";

/** A year and a month: a page of history, and a bound on what one request may cost. */
const MAX_DAYS = 400;

/** Totals overall and by day. */
export function statsRoutes({ reads }: { reads: Reads }) {
  return new Elysia({ name: "stats" })
    .get(
      "/stats/global",
      async () => {
        const { value, asOfMs } = await fromStore(reads.global());
        return { ...toStats(value), ...asOf(asOfMs) };
      },
      { detail: globalDetail },
    )
    .get(
      "/stats/daily",
      async ({ query: { from, to }, headers, set }) => {
        const days = daysBetween(checkDay("from", from), checkDay("to", to));
        if (from > to) throw new Problem(422, `from must not be after to: got ${from} and ${to}`);
        if (days.length > MAX_DAYS)
          throw new Problem(422, `A range holds at most ${MAX_DAYS} days: got ${days.length}`);
        const { value, asOfMs } = await fromStore(reads.daily(days));
        const rows = value.map((total, index) => ({ date: days[index] ?? "", ...toStats(total) }));
        return unlessKnown(headers, set, { from, to, days: rows }, asOf(asOfMs));
      },
      {
        query: t.Object({
          from: t.String({ error: "from is required: a date, YYYY-MM-DD" }),
          to: t.String({ error: "to is required: a date, YYYY-MM-DD" }),
        }),
        detail: dailyDetail,
      },
    );
}

const toStats = ({ orders, cents }: Totals) => ({ total_orders: orders, total_revenue: toAmount(cents) });

function checkDay(name: string, value: string): string {
  if (!isDay(value)) throw new Problem(422, `${name} must be a date, YYYY-MM-DD: got "${value}"`);
  return value;
}

const globalDetail = operation({
  tag: "stats",
  summary: "All orders and their revenue",
  schema: object({ total_orders: COUNT, total_revenue: AMOUNT, ...AS_OF }),
  example: { total_orders: 100, total_revenue: 15750.5, as_of: "2024-12-13T10:00:00.000Z" },
  problems: [503],
});

const dailyDetail = operation({
  tag: "stats",
  summary: "Orders and revenue by day",
  description: "Every day of the range, days without orders included. An order's day is the UTC date of its timestamp.",
  parameters: ["from", "to"].map((name) => ({
    name,
    in: "query",
    required: true,
    description: `${name === "from" ? "First" : "Last"} day, included`,
    schema: { type: "string", format: "date" },
    example: "2024-12-13",
  })),
  schema: object({
    from: { type: "string", format: "date" },
    to: { type: "string", format: "date" },
    days: {
      type: "array",
      items: object({ date: { type: "string", format: "date" }, total_orders: COUNT, total_revenue: AMOUNT }),
    },
    ...AS_OF,
  }),
  example: {
    from: "2024-12-13",
    to: "2024-12-14",
    days: [
      { date: "2024-12-13", total_orders: 3, total_revenue: 120.5 },
      { date: "2024-12-14", total_orders: 0, total_revenue: 0 },
    ],
    as_of: "2024-12-14T10:00:00.000Z",
  },
  problems: [422, 503],
});
