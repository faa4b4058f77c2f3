import { Elysia, t } from "elysia";
import Type from "typebox";
import { dayOf, describePeriod, leaderboardOf, leaderboardOn, PERIODS } from "../store/periods.ts";
import type { Reads } from "../store/single-flight.ts";
import type { FullStore, UserTotals } from "../store/store.ts";
import { toAmount } from "./amount.ts";
import { Amount, AsOf, asOf, Count, Day, OneOf, operation, Text } from "./openapi.ts";
import { decodeId, fromStore, Problem } from "./problem.ts";
import { acceptedFormat, createUserStreams, FORMATS } from "./user-stream.ts";

const PERIOD_NAMES = PERIODS.map((period) => `${period} (${describePeriod(period).name})`).join(", ");
const DATE_FORMS = PERIODS.map((period) => `${period}: ${describePeriod(period).form}`).join("; ");

/** @returns the routes of users and leaderboards */
export function userRoutes({ reads, store }: { reads: Reads; store: FullStore }) {
  const streamUsers = createUserStreams(store);

  async function userStats(id: string, url: string) {
    const userId = decodeId(id, url);
    const { value, asOfMs } = await fromStore(reads.user(userId));
    return { ...toUserStats({ userId, ...value }), ...asOf(asOfMs) };
  }

  return new Elysia({ name: "users" })
    .get("/users/:user_id/stats", ({ params, request }) => userStats(params.user_id, request.url), {
      params: t.Object({ user_id: t.String({ description: "Percent-encode reserved characters" }) }),
      detail: userDetail,
    })
    .get("/users/stats", ({ query, request }) => userStats(query.user_id, request.url), {
      query: t.Object({ user_id: t.String({ minLength: 1, error: () => "user_id is required" }) }),
      detail: userQueryDetail,
    })
    .get(
      "/top-users",
      async ({ query: { period, date, n } }) => {
        const board = date === undefined ? leaderboardOn(period, dayOf(Date.now())) : leaderboardOf(period, date);
        if (!board)
          throw new Problem(422, `With period=${period}, date must be ${describePeriod(period).form}: got "${date}"`);
        const { value, asOfMs } = await fromStore(reads.top(board, Number(n)));
        return { period, date: board.slice(2), top_users: value.map(toUserStats), ...asOf(asOfMs) };
      },
      {
        query: t.Object({
          period: t.UnionEnum(PERIODS, {
            error: () => `period must be one of ${PERIOD_NAMES}`,
            default: undefined,
            description: `${PERIOD_NAMES}, in UTC`,
          }),
          date: t.Optional(t.String({ description: `${DATE_FORMS}. Default: the current date` })),
          // A string with a pattern, because a number would also accept 0x10, 1e2 and " 5".
          n: t.Optional(
            t.String({
              pattern: "^([1-9]\\d{0,2}|1000)$",
              default: "10",
              error: () => "n must be an integer from 1 to 1000",
              description: "Number of users",
            }),
          ),
        }),
        detail: topDetail,
      },
    )
    .get("/users", ({ query: { format }, headers }) => streamUsers(format ?? acceptedFormat(headers.accept)), {
      query: t.Object({
        format: t.Optional(
          t.UnionEnum(FORMATS, {
            error: () => "format must be ndjson or csv",
            default: undefined,
            description: "Overrides the Accept header",
          }),
        ),
      }),
      detail: listDetail,
    });
}

const toUserStats = ({ userId, orders, cents }: UserTotals) => ({
  user_id: userId,
  order_count: orders,
  total_spend: toAmount(cents),
});

const User = Type.Object({ user_id: Text("U5678"), order_count: Count, total_spend: Amount });
const UserStats = Type.Object({ ...User.properties, ...AsOf });
const TopUsers = Type.Object({ period: OneOf(PERIODS), date: Day, top_users: Type.Array(User), ...AsOf });
const userDetail = operation("users", "Number of orders and total spend of one user", {
  name: "UserStats",
  description: "All values are 0 for a user without orders.",
  response: UserStats,
  problems: [400, 409, 422, 503],
});
const userQueryDetail = { ...userDetail, description: "Like /users/{user_id}/stats, for any id, also `.` and `..`" };
const topDetail = operation("users", "Users with the highest spend in a day, ISO week, month or year", {
  name: "TopUsers",
  description: "Highest spend first. Users with equal spend are sorted by the bytes of their ids.",
  response: TopUsers,
  problems: [422, 503],
});
const listDetail = operation("users", "All users with their number of orders and total spend", {
  description:
    "Every user once, in no particular order, streamed as one JSON object per line, or as CSV with `?format=csv` or " +
    "`Accept: text/csv`. Orders that are counted during the request may or may not be included. At most two requests at a " +
    "time. For a ranking, see /top-users.",
  contentType: "application/x-ndjson",
  response: Text('{"user_id":"U5678","order_count":25,"total_spend":3200.75}\n'),
  problems: [422, 503],
});
