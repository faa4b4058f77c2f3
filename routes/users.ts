import { Elysia, t } from "elysia";
import Type, { type Static } from "typebox";
import { describePeriod, leaderboardOf, leaderboardOn, PERIODS, type Period, todayIn } from "../store/periods.ts";
import type { Reads } from "../store/single-flight.ts";
import type { FullStore, UserTotals } from "../store/store.ts";
import { toAmount } from "./amount.ts";
import { AS_CSV, formatParameter, orCsv, wantsCsv } from "./csv.ts";
import { Amount, AsOf, asOf, Count, OneOf, operation, Text } from "./openapi.ts";
import { decodeId, fromStore, Problem } from "./problem.ts";
import { createUserStreams } from "./user-stream.ts";

const PERIOD_NAMES = PERIODS.map((period) => `${period} (${describePeriod(period).name})`).join(", ");
const PERIOD_CHOICE = `one of ${PERIOD_NAMES}`;
const DATE_FORMS = PERIODS.map((period) => `${period}: ${describePeriod(period).form}`).join("; ");

const periodParameter = t.UnionEnum(PERIODS, {
  error: () => `period must be ${PERIOD_CHOICE}`,
  default: undefined,
  description: `${PERIOD_NAMES}, in the time zone of the program`,
});
const dateParameter = t.Optional(t.String({ description: `${DATE_FORMS}. Default: the current date` }));
const optionalPeriod = { period: t.Optional(periodParameter), date: dateParameter };

interface UserDeps {
  reads: Reads;
  store: FullStore;
  timeZone: string;
}

/** @returns the routes of users and leaderboards */
export function userRoutes({ reads, store, timeZone }: UserDeps) {
  const streamUsers = createUserStreams(store);

  /** @returns the name of the leaderboard of a period, by default the current one. Throws a `Problem` with status 422 for a wrong date */
  function findLeaderboard(period: Period, date: string | undefined): string {
    const board = date === undefined ? leaderboardOn(period, todayIn(timeZone)) : leaderboardOf(period, date);
    if (board) return board;
    throw new Problem(422, `With period=${period}, date must be ${describePeriod(period).form}: got "${date}"`);
  }

  async function userStats(id: string, url: string, { period, date }: { period?: Period; date?: string }) {
    const userId = decodeId(id, url);
    if (!period && date !== undefined) throw new Problem(422, `date requires period, which must be ${PERIOD_CHOICE}`);
    const board = period && findLeaderboard(period, date);
    const { value, asOfMs } = await fromStore(board ? reads.userOn(board, userId) : reads.user(userId));
    return { ...toUserStats({ userId, ...value }), ...(board && { period, date: dateOf(board) }), ...asOf(asOfMs) };
  }

  return new Elysia({ name: "users" })
    .get("/users/:user_id/stats", ({ params, query, request }) => userStats(params.user_id, request.url, query), {
      params: t.Object({ user_id: t.String({ description: "Percent-encode reserved characters" }) }),
      query: t.Object(optionalPeriod),
      detail: userDetail,
    })
    .get("/users/stats", ({ query, request }) => userStats(query.user_id, request.url, query), {
      query: t.Object({
        user_id: t.String({ minLength: 1, error: () => "user_id is required" }),
        ...optionalPeriod,
      }),
      detail: userQueryDetail,
    })
    .get(
      "/top-users",
      async ({ query: { period, date, n } }) => {
        const board = findLeaderboard(period, date);
        const { value, asOfMs } = await fromStore(reads.top(board, Number(n)));
        return { period, date: dateOf(board), top_users: value.map(toUserStats), ...asOf(asOfMs) };
      },
      {
        query: t.Object({
          period: periodParameter,
          date: dateParameter,
          // A string with a pattern, because a number would also accept 0x10, 1e2 and " 5".
          n: t.Optional(
            t.String({
              pattern: "^([1-9]\\d{0,2}|1000)$",
              default: "10",
              error: () => "n must be an integer from 1 to 1000",
              description: "Number of users",
            }),
          ),
          format: formatParameter("json", "csv"),
        }),
        afterHandle: orCsv<Static<typeof TopUsers>>(User, ({ date, top_users }) => ({
          rows: top_users,
          file: `top-users-${date}.csv`,
        })),
        detail: topDetail,
      },
    )
    .get("/users", ({ query: { format }, request }) => streamUsers(wantsCsv(format, request) ? "csv" : "ndjson"), {
      query: t.Object({ format: formatParameter("ndjson", "csv") }),
      detail: listDetail,
    });
}

const dateOf = (leaderboard: string) => leaderboard.slice(2);

const toUserStats = ({ userId, orders, cents }: UserTotals) => ({
  user_id: userId,
  order_count: orders,
  total_spend: toAmount(cents),
});

const User = Type.Object({ user_id: Text("U5678"), order_count: Count, total_spend: Amount });
const PeriodDate = Text("2024-12-13", `Of the period: ${DATE_FORMS}`);
const UserStats = Type.Object({
  ...User.properties,
  period: Type.Optional(OneOf(PERIODS)),
  date: Type.Optional(PeriodDate),
  ...AsOf,
});
const TopUsers = Type.Object({ period: OneOf(PERIODS), date: PeriodDate, top_users: Type.Array(User), ...AsOf });
const userDetail = operation("users", "Number of orders and total spend of one user", {
  name: "UserStats",
  description:
    "Of all time, or of a `period`, with which the response has `period` and `date`. All values are 0 for a user without orders.",
  response: UserStats,
  problems: [400, 409, 422, 503],
});
const userQueryDetail = { ...userDetail, description: "Like /users/{user_id}/stats, for any id, also `.` and `..`" };
const topDetail = operation("users", "Users with the highest spend in a day, ISO week, month or year", {
  name: "TopUsers",
  description: `Highest spend first. Users with equal spend are sorted by the bytes of their ids. ${AS_CSV}`,
  response: TopUsers,
  csv: User,
  problems: [422, 503],
});
const listDetail = operation("users", "All users with their number of orders and total spend", {
  description:
    "Every user once, in no particular order, streamed as one JSON object per line, or as CSV with `?format=csv` or " +
    "`Accept: text/csv`. Orders that are counted during the request may or may not be included. At most two requests at a " +
    "time. For a ranking, see /top-users.",
  contentType: "application/x-ndjson",
  response: Text('{"user_id":"U5678","order_count":25,"total_spend":3200.75}\n'),
  csv: User,
  problems: [422, 503],
});
