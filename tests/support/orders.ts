import type { HistoryEntry, Order, RecentOrder } from "../../store/store.ts";

let next = 0;

/** An order of the store's, with whatever the test cares about; ids are never repeated. */
export function order(fields: Partial<Order> = {}): Order {
  return { id: `order-${next++}`, userId: "U1", cents: 1000, day: "2024-12-13", ...fields };
}

/** A message body as a shop sends it: one item of the given price. */
export function body(fields: Record<string, unknown> = {}): string {
  return JSON.stringify({
    order_id: `order-${next++}`,
    user_id: "U1",
    order_timestamp: "2024-12-13T10:00:00Z",
    order_value: 10,
    items: [{ product_id: "P1", quantity: 1, price_per_unit: 10 }],
    shipping_address: "1 Main St",
    payment_method: "card",
    ...fields,
  });
}

/** A duplicate of an unknown order, as a store keeps it among the recent orders. */
export const duplicate = (messageId: string): RecentOrder => ({
  outcome: "duplicate",
  atMs: 1_734_000_000_000,
  messageId,
});

/** The history of an order id with one duplicate, of now. */
export const duplicateEntry = (orderId: string): HistoryEntry => ({
  outcome: "duplicate",
  orderId,
  count: 1,
  latest: [{ ...duplicate("m"), atMs: Date.now() }],
});
