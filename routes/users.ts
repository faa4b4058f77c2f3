import { Elysia, t } from "elysia";
import { createListings } from "../store/listing.ts";
import { boardOf, boardsOf, dayOf, PERIODS, type Period } from "../store/periods.ts";
import type { Reads } from "../store/share.ts";
import type { UserTotals, WholeStore } from "../store/store.ts";
import { toAmount } from "./amount.ts";
import { unlessKnown } from "./etag.ts";
import { AMOUNT, AS_OF, asOf, COUNT, object, operation } from "./openapi.ts";
import { decodeId, fromStore, Problem } from "./problem.ts";

const FORMS: Record<Period, string> = {
  d: "a date, YYYY-MM-DD",
  w: "an ISO week, YYYY-WW or YYYY-Www",
  m: "a month, YYYY-MM",
  y: "a year, YYYY",
};

/** What users ordered and spent, and who spent most. */
export function userRoutes({ reads, store }: { reads: Reads; store: WholeStore }) {
  const listings = createListings(store);
  const begin = async () => ({ ...(await fromStore(listings.begin())), offset: 0 });
  return new Elysia({ name: "users" })
    .get(
      "/users/:user_id/stats",
      async ({ params, path }) => {
        const userId = decodeId(params.user_id, path);
        const { value, asOfMs } = await fromStore(reads.user(userId));
        return { ...toUserStats({ userId, ...value }), ...asOf(asOfMs) };
      },
      { detail: userDetail },
    )
    .get(
      "/top-users",
      async ({ query: { period, date, n }, headers, set }) => {
        const board = date === undefined ? boardOfToday(period) : boardOf(period, date);
        if (!board) throw new Problem(422, `With period=${period}, date must be ${FORMS[period]}: got "${date}"`);
        const { value, asOfMs } = await fromStore(reads.top(board, Number(n)));
        const body = { period, date: board.slice(2), top_users: value.map(toUserStats) };
        return unlessKnown(headers, set, body, asOf(asOfMs));
      },
      {
        query: t.Object({
          period: t.UnionEnum(PERIODS, {
            error: "period must be d (day), w (ISO week), m (month) or y (year)",
            default: undefined,
          }),
          date: t.Optional(t.String()),
          n: upTo1000("n", "10"),
        }),
        detail: topDetail,
      },
    )
    .get(
      "/users",
      async ({ query: { limit, cursor } }) => {
        const { id, asOfMs, users, offset } = cursor !== undefined ? readCursor(cursor) : await begin();
        const page = await fromStore(listings.page(id, offset, Number(limit)));
        if (!page) throw new Problem(410, "This listing is no longer kept: begin again without a cursor");
        const next = offset + page.users.length;
        return {
          ...asOf(asOfMs),
          total_users: users,
          users: page.users.map(toUserStats),
          next_cursor: next < users ? toCursor({ id, asOfMs, users, offset: next }) : null,
        };
      },
      {
        query: t.Object({
          sort: t.UnionEnum(["spend"], { error: "sort must be spend", default: "spend" }),
          limit: upTo1000("limit", "100"),
          cursor: t.Optional(t.String()),
        }),
        detail: listDetail,
      },
    );
}

/** As text: a number would also be taken as 0x10, 1e2 or " 5". */
const upTo1000 = (name: string, fallback: string) =>
  t.String({
    pattern: "^([1-9]\\d{0,2}|1000)$",
    default: fallback,
    error: `${name} must be an integer from 1 to 1000`,
  });

/** Where a page begins, and of which listing. Opaque to clients; whoever makes one up gets an empty page or a 410. */
type Cursor = { id: string; asOfMs: number; users: number; offset: number };

const toCursor = ({ id, asOfMs, users, offset }: Cursor) =>
  Buffer.from(`${asOfMs} ${users} ${offset} ${id}`).toString("base64url");

function readCursor(cursor: string): Cursor {
  const text = Buffer.from(cursor, "base64url").toString();
  const [, asOfMs, users, offset, id] = /^(\d{13}) (\d{1,15}) (\d{1,15}) (\S+)$/.exec(text) ?? [];
  if (!id) throw new Problem(422, "cursor must be the next_cursor of an earlier page");
  return { id, asOfMs: Number(asOfMs), users: Number(users), offset: Number(offset) };
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
  schema: object({ ...USER.properties, ...AS_OF }),
  example: { user_id: "U5678", order_count: 25, total_spend: 3200.75, as_of: "2024-12-13T10:00:00.000Z" },
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
    ...AS_OF,
  }),
  example: {
    period: "w",
    date: "2024-W50",
    top_users: [{ user_id: "U5678", order_count: 25, total_spend: 3200.75 }],
    as_of: "2024-12-13T10:00:00.000Z",
  },
  problems: [422, 503],
});

const listDetail = operation({
  tag: "users",
  summary: "All users, most spend first, in pages",
  description:
    "The pages of one listing show one moment: while orders arrive they neither skip a user nor repeat one. A listing is " +
    "kept for 15 minutes. Beginning one reads every user, some seconds for a million of them.",
  parameters: [
    {
      name: "sort",
      in: "query",
      required: false,
      description: "Most spend first; equal spend in the byte order of the user ids",
      schema: { type: "string", enum: ["spend"], default: "spend" },
    },
    {
      name: "limit",
      in: "query",
      required: false,
      description: "Users on a page",
      schema: { type: "integer", minimum: 1, maximum: 1000, default: 100 },
    },
    {
      name: "cursor",
      in: "query",
      required: false,
      description: "`next_cursor` of the page before; without it a listing begins",
      schema: { type: "string" },
    },
  ],
  schema: object({
    ...AS_OF,
    total_users: COUNT,
    users: { type: "array", items: USER },
    next_cursor: { type: "string", nullable: true, description: "Null on the last page" },
  }),
  example: {
    as_of: "2024-12-13T10:00:00.000Z",
    total_users: 2,
    users: [{ user_id: "U5678", order_count: 25, total_spend: 3200.75 }],
    next_cursor: "MTczNDA4NDAwMDAwMCAyIDEgbDE",
  },
  problems: [410, 422, 503],
});
