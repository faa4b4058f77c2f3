import { Elysia, t } from "elysia";
import Type from "typebox";
import { ORDER_STATES, type OrderState, stateOf, timeOf } from "../store/order-history.ts";
import {
  HISTORY_LIMITS,
  LONGEST_WINDOW_SECONDS,
  MAX_RECENT,
  type OrderHistory,
  RECENT_OUTCOMES,
  type RecentOrder,
  type Store,
} from "../store/store.ts";
import { toAmount } from "./amount.ts";
import { AsOf, asOf, Count, Nullable, OneOf, operation, Text } from "./openapi.ts";
import { decodeId, fromStore } from "./problem.ts";

const DAY_SECONDS = 86_400;

/** @returns the routes of recent orders and of the state of one order */
export function orderRoutes({ store }: { store: Store }) {
  async function orderState(id: string, url: string) {
    const order_id = decodeId(id, url);
    const asOfMs = Date.now();
    const read = Promise.all([store.isCounted(order_id), store.history(order_id), store.markerWindowSeconds()]);
    const [counted, history, window] = await fromStore(read);
    const state = stateOf(counted, history);
    const window_days = Math.floor(window / DAY_SECONDS);
    const details = state === "unknown" ? { detail: explainUnknown(window_days) } : describeHistory(state, history);
    return { order_id, state, ...details, window_days, ...asOf(asOfMs) };
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

const explainUnknown = (days: number) =>
  `It was not counted within the last ${days === 1 ? "day" : `${days} days`}, and no rejected order with this id is kept. Its message may not have been ` +
  "sent, may still be in the queue, or was rejected without a readable order_id";

/** @returns what is known about an order, for the response */
function describeHistory(state: OrderState, { corrected, rejected, duplicate }: OrderHistory) {
  const rejections = rejected?.latest.map(toMessage).reverse() ?? [];
  const [correction] = corrected?.latest.map(toMessage) ?? [];
  return {
    ...(state === "rejected" ? rejections[0] : correction),
    ...(rejected && { rejections: { count: rejected.count, latest: rejections } }),
    ...(duplicate && { duplicates: { count: duplicate.count, last_at: toTime(timeOf(duplicate)) } }),
  };
}

const toTime = (ms: number) => new Date(ms).toISOString();
const toRecentOrder = (order: RecentOrder) => ({ order_id: order.orderId ?? null, ...toMessage(order) });

/** @returns a message for the response. Ids are null if the message does not have them */
function toMessage(order: RecentOrder) {
  const { atMs, messageId, userId, declared, cents, reason, errors, day, traceId } = order;
  const computed = cents === undefined ? undefined : toAmount(cents);
  return {
    at: toTime(atMs),
    message_id: messageId,
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
const Time = Type.String({ format: "date-time", example: "2024-12-13T10:00:00.000Z" });
const Message = Type.Object({
  at: Time,
  message_id: Text("5fea7756-0ea4-451a-a703-a558b933e274", "Of the first delivery, also after a redrive"),
  user_id: Nullable(Text("U5678")),
  declared: OptionalNumber(99.99, "Corrected orders only: the `order_value` of the message"),
  computed: OptionalNumber(40, "Corrected orders only: the total of the items, which is counted"),
  difference: OptionalNumber(-59.99, "Corrected orders only: `computed` minus `declared`"),
  reason: Type.Optional(Text("", "Rejected orders only")),
  errors: Type.Optional(Type.Array(Type.Object({ path: Text("/items"), message: Text("is required") }))),
  date: Type.Optional(Text("2062-12-13", "Orders with an implausible date only: their day")),
  trace_id: Type.Optional(Text("", "Trace id of the producer, if the message has one")),
});
const RecentOrders = Type.Object({
  outcome: OneOf(RECENT_OUTCOMES),
  orders: Type.Array(Type.Object({ order_id: Nullable(Text("ORD1234")), ...Message.properties })),
  ...AsOf,
});
const OrderStateResponse = Type.Object({
  order_id: Text("ORD1234"),
  state: OneOf(ORDER_STATES),
  ...Type.Partial(Message).properties,
  detail: Type.Optional(Text("", "Unknown orders only: what that can mean")),
  rejections: Type.Optional(Type.Object({ count: Count, latest: Type.Array(Message) })),
  duplicates: Type.Optional(Type.Object({ count: Count, last_at: Time })),
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
const orderDetail = operation("orders", "What became of an order", {
  name: "OrderState",
  description:
    "`corrected` and `rejected` with the fields of that message. An order that was rejected, fixed and sent again is `counted` or " +
    `\`corrected\`. \`rejections\` has the latest ${HISTORY_LIMITS.rejected.messages}, newest first. All but \`counted\` is kept ` +
    "for `window_days` days, best effort and for at most 100,000 orders. An order that was counted earlier can be `unknown`.",
  response: OrderStateResponse,
  problems: [400, 422, 503],
});
const orderQueryDetail = {
  ...orderDetail,
  description: "Like /orders/{order_id}, for any id, also `.`, `..` and `recent`",
};
