import { Elysia, t } from "elysia";
import Type from "typebox";
import { LONGEST_WINDOW_SECONDS, MAX_RECENT, RECENT_OUTCOMES, type RecentOrder, type Store } from "../store/store.ts";
import { toAmount } from "./amount.ts";
import { AsOf, asOf, Nullable, OneOf, operation, Text } from "./openapi.ts";
import { decodeId, fromStore } from "./problem.ts";

const DAY_SECONDS = 86_400;

/** @returns the routes of recent orders and of the state of one order */
export function orderRoutes({ store }: { store: Store }) {
  async function orderState(id: string, url: string) {
    const order_id = decodeId(id, url);
    const asOfMs = Date.now();
    const read = Promise.all([store.isCounted(order_id), store.markerWindowSeconds()]);
    const [counted, window] = await fromStore(read);
    const state = counted ? "counted" : "unknown";
    return { order_id, state, window_days: Math.floor(window / DAY_SECONDS), ...asOf(asOfMs) };
  }

  return new Elysia({ name: "orders" })
    .get(
      "/orders/recent",
      async ({ query: { outcome, n } }) => {
        const asOfMs = Date.now();
        const orders = await fromStore(store.recent(outcome, Number(n)));
        return { outcome, orders: orders.map(toRecentOrder), ...asOf(asOfMs) };
      },
      {
        query: t.Object({
          outcome: t.UnionEnum(RECENT_OUTCOMES, {
            error: () => "outcome must be corrected, rejected, duplicate or implausible_date",
            default: undefined,
            description: "Outcome of the orders",
          }),
          n: t.Optional(
            t.String({
              pattern: "^([1-9]\\d?|100)$",
              default: "20",
              error: () => `n must be an integer from 1 to ${MAX_RECENT}`,
              description: "Number of orders",
            }),
          ),
        }),
        detail: recentDetail,
      },
    )
    .get("/orders/:order_id", ({ params, request }) => orderState(params.order_id, request.url), {
      params: t.Object({ order_id: t.String({ description: "Percent-encode reserved characters" }) }),
      detail: orderDetail,
    })
    .get("/orders", ({ query, request }) => orderState(query.order_id, request.url), {
      query: t.Object({ order_id: t.String({ minLength: 1, error: () => "order_id is required" }) }),
      detail: orderQueryDetail,
    });
}

/** @returns a recent order for the response. Ids are null if the message does not have them */
function toRecentOrder(order: RecentOrder) {
  const { atMs, messageId, orderId, userId, declared, cents, reason, errors, day, traceId } = order;
  const computed = cents === undefined ? undefined : toAmount(cents);
  return {
    at: new Date(atMs).toISOString(),
    message_id: messageId,
    order_id: orderId ?? null,
    user_id: userId ?? null,
    ...(declared !== undefined &&
      computed !== undefined && { declared, computed, difference: difference(computed, declared) }),
    ...(reason !== undefined && { reason, errors: errors ?? [] }),
    ...(day !== undefined && { date: day }),
    ...(traceId !== undefined && { trace_id: traceId }),
  };
}

/** Rounded to cents, because `declared` can have more decimals. */
const difference = (computed: number, declared: number) => Math.round((computed - declared) * 100) / 100;

const OptionalNumber = (example: number, description: string) => Type.Optional(Type.Number({ example, description }));
const RecentOrders = Type.Object({
  outcome: OneOf(RECENT_OUTCOMES),
  orders: Type.Array(
    Type.Object({
      at: AsOf.as_of,
      message_id: Text("5fea7756-0ea4-451a-a703-a558b933e274", "Of the first delivery, also after a redrive"),
      order_id: Nullable(Text("ORD1234")),
      user_id: Nullable(Text("U5678")),
      declared: OptionalNumber(99.99, "Corrected orders only: the `order_value` of the message"),
      computed: OptionalNumber(40, "Corrected orders only: the total of the items, which is counted"),
      difference: OptionalNumber(-59.99, "Corrected orders only: `computed` minus `declared`"),
      reason: Type.Optional(Text("", "Rejected orders only")),
      errors: Type.Optional(Type.Array(Type.Object({ path: Text("/items"), message: Text("is required") }))),
      date: Type.Optional(Text("2062-12-13", "Orders with an implausible date only: their day")),
      trace_id: Type.Optional(Text("", "Trace id of the producer, if the message has one")),
    }),
  ),
  ...AsOf,
});
const OrderState = Type.Object({
  order_id: Text("ORD1234"),
  state: OneOf(["counted", "unknown"]),
  window_days: Type.Integer({ example: LONGEST_WINDOW_SECONDS / DAY_SECONDS }),
  ...AsOf,
});

const recentDetail = operation("orders", "Recent corrected, rejected or duplicate orders, and implausible dates", {
  name: "RecentOrders",
  description:
    `Newest first, of all processes. The latest ${MAX_RECENT} of each outcome are kept. For their number, see the metrics. ` +
    "Orders with an `implausible_date`, more than a day ahead or before 2000, are also counted or corrected.",
  response: RecentOrders,
  problems: [422, 503],
});
const orderDetail = operation("orders", "Whether an order was counted", {
  name: "OrderState",
  description:
    "`counted`, or `unknown` if the order was not counted within the last `window_days` days. An order that was counted " +
    "earlier can be either.",
  response: OrderState,
  problems: [400, 422, 503],
});
const orderQueryDetail = {
  ...orderDetail,
  description: "Like /orders/{order_id}, for any id, also `.`, `..` and `recent`",
};
