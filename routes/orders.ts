import { Elysia, t } from "elysia";
import { MARKER_WINDOW_SECONDS, MAX_RECENT, type RecentOrder, type Store } from "../store/store.ts";
import { toAmount } from "./amount.ts";
import { AS_OF, asOf, object, operation } from "./openapi.ts";
import { decodeId, fromStore } from "./problem.ts";

const OUTCOMES = ["corrected", "rejected", "duplicate"] as const;
const WINDOW_DAYS = MARKER_WINDOW_SECONDS / 86_400;

/** Single orders: the latest that were not simply counted, and whether one was counted. */
export function orderRoutes({ store }: { store: Store }) {
  return new Elysia({ name: "orders" })
    .get(
      "/orders/recent",
      async ({ query: { outcome, n } }) => {
        const asOfMs = Date.now();
        const orders = await fromStore(store.recent(outcome, Number(n)));
        return { outcome, orders: orders.map(toRecent), ...asOf(asOfMs) };
      },
      {
        query: t.Object({
          outcome: t.UnionEnum(OUTCOMES, {
            error: "outcome must be corrected, rejected or duplicate",
            default: undefined,
          }),
          n: t.String({
            pattern: "^([1-9]\\d?|100)$",
            default: "20",
            error: `n must be an integer from 1 to ${MAX_RECENT}`,
          }),
        }),
        detail: recentDetail,
      },
    )
    .get(
      "/orders/:order_id",
      async ({ params, path }) => {
        const order_id = decodeId(params.order_id, path);
        const asOfMs = Date.now();
        const known = await fromStore(store.knows(order_id));
        return { order_id, state: known ? "counted" : "unknown", window_days: WINDOW_DAYS, ...asOf(asOfMs) };
      },
      { detail: orderDetail },
    );
}

/** What its outcome says of an order; what the order does not have is null. */
function toRecent({ atMs, messageId, orderId, userId, declared, cents, reason, errors, traceId }: RecentOrder) {
  const computed = cents === undefined ? undefined : toAmount(cents);
  return {
    at: new Date(atMs).toISOString(),
    message_id: messageId,
    order_id: orderId ?? null,
    user_id: userId ?? null,
    ...(declared !== undefined &&
      computed !== undefined && { declared, computed, difference: difference(computed, declared) }),
    ...(reason !== undefined && { reason, errors: errors ?? [] }),
    ...(traceId !== undefined && { trace_id: traceId }),
  };
}

/** Of the two as they are shown, in cents, rounded; what was declared may have more decimals. */
const difference = (computed: number, declared: number) => Math.round((computed - declared) * 100) / 100;

const TEXT = { type: "string" };
const AMOUNT_SENT = { type: "number" };

const recentDetail = operation({
  tag: "orders",
  summary: "The latest orders that were corrected, rejected or duplicates",
  description: `The newest first, of all processes. The latest ${MAX_RECENT} of each outcome are kept, to look at: metrics count them.`,
  parameters: [
    {
      name: "outcome",
      in: "query",
      required: true,
      description: "What became of them",
      schema: { type: "string", enum: [...OUTCOMES] },
      example: "corrected",
    },
    {
      name: "n",
      in: "query",
      required: false,
      description: "How many orders",
      schema: { type: "integer", minimum: 1, maximum: MAX_RECENT, default: 20 },
    },
  ],
  schema: object({
    outcome: TEXT,
    orders: {
      type: "array",
      items: {
        type: "object",
        properties: {
          at: { type: "string", format: "date-time" },
          message_id: TEXT,
          order_id: { ...TEXT, nullable: true },
          user_id: { ...TEXT, nullable: true },
          declared: { ...AMOUNT_SENT, description: "Of a corrected order: its `order_value`" },
          computed: { ...AMOUNT_SENT, description: "What it counts instead: the total of its items" },
          difference: { ...AMOUNT_SENT, description: "`computed` less `declared`" },
          reason: { ...TEXT, description: "Of a rejected order" },
          errors: { type: "array", items: object({ path: TEXT, message: TEXT }) },
          trace_id: { ...TEXT, description: "Of the producer's trace, where the message carries one" },
        },
        required: ["at", "message_id", "order_id", "user_id"],
      },
    },
    ...AS_OF,
  }),
  example: {
    outcome: "corrected",
    orders: [
      {
        at: "2024-12-13T10:00:00.000Z",
        message_id: "5fea7756-0ea4-451a-a703-a558b933e274",
        order_id: "ORD1234",
        user_id: "U5678",
        declared: 99.99,
        computed: 40,
        difference: -59.99,
      },
    ],
    as_of: "2024-12-13T10:00:00.500Z",
  },
  problems: [422, 503],
});

const orderDetail = operation({
  tag: "orders",
  summary: "Whether an order was counted",
  description:
    "`counted`, or `unknown`: not counted within the last `window_days` days. What was counted earlier may be either.",
  parameters: [
    {
      name: "order_id",
      in: "path",
      required: true,
      description: "Percent-encoded where it holds reserved characters",
      schema: TEXT,
      example: "ORD1234",
    },
  ],
  schema: object({
    order_id: TEXT,
    state: { type: "string", enum: ["counted", "unknown"] },
    window_days: { type: "integer" },
    ...AS_OF,
  }),
  example: { order_id: "ORD1234", state: "counted", window_days: WINDOW_DAYS, as_of: "2024-12-13T10:00:00.000Z" },
  problems: [400, 503],
});
