import { Elysia, t } from "elysia";
import Type, { type Static } from "typebox";
import { daysBetween, isDay } from "../store/periods.ts";
import type { Reads } from "../store/single-flight.ts";
import type { Totals } from "../store/store.ts";
import { toAmount } from "./amount.ts";
import { AS_CSV, formatParameter, orCsv } from "./csv.ts";
import { Amount, AsOf, asOf, Count, Day, operation } from "./openapi.ts";
import { fromStore, Problem } from "./problem.ts";

/** Enough for a year of history. Limits the cost of one request. */
const MAX_DAYS = 400;

/** @returns the routes of overall and daily totals */
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
      async ({ query: { from, to } }) => {
        const days = daysBetween(checkDay("from", from), checkDay("to", to));
        if (from > to) throw new Problem(422, `from must not be after to: got ${from} and ${to}`);
        if (days.length > MAX_DAYS)
          throw new Problem(422, `A range can have at most ${MAX_DAYS} days: got ${days.length}`);
        const { value, asOfMs } = await fromStore(reads.daily(days));
        const rows = value.map((total, index) => ({ date: days[index] ?? "", ...toStats(total) }));
        return { from, to, days: rows, ...asOf(asOfMs) };
      },
      {
        query: t.Object({
          from: t.String({ error: () => "from is required: a date, YYYY-MM-DD", description: "First day, included" }),
          to: t.String({ error: () => "to is required: a date, YYYY-MM-DD", description: "Last day, included" }),
          format: formatParameter("json", "csv"),
        }),
        afterHandle: orCsv<Static<typeof Daily>>(DailyTotals, ({ from, to, days }) => ({
          rows: days,
          file: `daily-${from}-to-${to}.csv`,
        })),
        detail: dailyDetail,
      },
    );
}

const toStats = ({ orders, cents }: Totals) => ({ total_orders: orders, total_revenue: toAmount(cents) });

function checkDay(name: string, value: string): string {
  if (!isDay(value)) throw new Problem(422, `${name} must be a date, YYYY-MM-DD: got "${value}"`);
  return value;
}

const totals = { total_orders: Count, total_revenue: Amount };
const DailyTotals = Type.Object({ date: Day, ...totals });
const Daily = Type.Object({ from: Day, to: Day, days: Type.Array(DailyTotals), ...AsOf });
const globalDetail = operation("stats", "Total number of orders and revenue", {
  name: "GlobalStats",
  response: Type.Object({ ...totals, ...AsOf }),
  problems: [503],
});
const dailyDetail = operation("stats", "Orders and revenue by day", {
  name: "DailyStats",
  description: `Includes days without orders. The day of an order is the date of its \`order_timestamp\` in the time zone of the program. ${AS_CSV}`,
  response: Daily,
  csv: DailyTotals,
  problems: [422, 503],
});
