import { Elysia, t } from "elysia";
import { boardOf, boardsOf, dayOf, PERIODS, type Period } from "../store/periods.ts";
import type { Store, UserTotals } from "../store/store.ts";
import { AMOUNT, COUNT, object, operation } from "./openapi.ts";
import { fromStore, Problem } from "./problem.ts";
import { toAmount } from "./stats.ts";

const FORMS: Record<Period, string> = {
  d: "a date, YYYY-MM-DD",
  w: "an ISO week, YYYY-WW or YYYY-Www",
  m: "a month, YYYY-MM",
  y: "a year, YYYY",
};

/** What users ordered and spent, and who spent most. */
export function userRoutes({ store }: { store: Store }) {
  return new Elysia({ name: "users" })
    .get(
      "/users/:user_id/stats",
      async ({ params, path }) => {
        const userId = decodeUserId(params.user_id, path);
        return toUserStats({ userId, ...(await fromStore(store.user(userId))) });
      },
      { detail: userDetail },
    )
    .get(
      "/top-users",
      async ({ query: { period, date, n } }) => {
        const board = date === undefined ? boardOfToday(period) : boardOf(period, date);
        if (!board) throw new Problem(422, `With period=${period}, date must be ${FORMS[period]}: got "${date}"`);
        const top = await fromStore(store.top(board, Number(n)));
        return { period, date: board.slice(2), top_users: top.map(toUserStats) };
      },
      {
        query: t.Object({
          period: t.UnionEnum(PERIODS, {
            error: "period must be d (day), w (ISO week), m (month) or y (year)",
            default: undefined,
          }),
          date: t.Optional(t.String()),
          // As text: a number would also be taken as 0x10, 1e2 or " 5".
          n: t.String({
            pattern: "^([1-9]\\d{0,2}|1000)$",
            default: "10",
            error: "n must be an integer from 1 to 1000",
          }),
        }),
        detail: topDetail,
      },
    );
}

/** Elysia turns a broken percent escape into U+FFFD; that would answer for a user nobody asked about. */
function decodeUserId(userId: string, path: string): string {
  try {
    if (path.includes("%")) decodeURIComponent(path);
  } catch {
    throw new Problem(400, "The user id in the path is not percent-encoded UTF-8");
  }
  return userId;
}

const boardOfToday = (period: Period) => boardsOf(dayOf(Date.now()))[PERIODS.indexOf(period)];

const toUserStats = ({ userId, orders, cents }: UserTotals) => ({
  user_id: userId,
  order_count: orders,
  total_spend: toAmount(cents),
});

const USER = object({ user_id: { type: "string" }, order_count: COUNT, total_spend: AMOUNT });

const userDetail = operation({
  tag: "users",
  summary: "What one user ordered and spent",
  description: "Zeros for a user without orders.",
  parameters: [
    {
      name: "user_id",
      in: "path",
      required: true,
      description: "Percent-encoded where it holds reserved characters",
      schema: { type: "string" },
      example: "U5678",
    },
  ],
  schema: USER,
  example: { user_id: "U5678", order_count: 25, total_spend: 3200.75 },
  problems: [400, 503],
});

const topDetail = operation({
  tag: "users",
  summary: "Who spent most in a day, ISO week, month or year",
  description: "Most spend first; equal spend in the byte order of the user ids.",
  parameters: [
    {
      name: "period",
      in: "query",
      required: true,
      description: "Day, ISO week, month or year, in UTC",
      schema: { type: "string", enum: [...PERIODS] },
      example: "w",
    },
    {
      name: "date",
      in: "query",
      required: false,
      description: `${PERIODS.map((period) => `${period}: ${FORMS[period]}`).join("; ")}. The current one by default`,
      schema: { type: "string" },
      example: "2024-50",
    },
    {
      name: "n",
      in: "query",
      required: false,
      description: "How many users",
      schema: { type: "integer", minimum: 1, maximum: 1000, default: 10 },
    },
  ],
  schema: object({
    period: { type: "string" },
    date: { type: "string" },
    top_users: { type: "array", items: USER },
  }),
  example: {
    period: "w",
    date: "2024-W50",
    top_users: [{ user_id: "U5678", order_count: 25, total_spend: 3200.75 }],
  },
  problems: [422, 503],
});
