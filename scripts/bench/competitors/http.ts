/** The same responses from the same keys without a framework, validation or metrics. */

import { Redis } from "ioredis";

const redis = new Redis(Bun.env.REDIS_URL ?? "", { enableAutoPipelining: true });

async function global() {
  const [orders, revenue] = await redis.hmget("global:stats", "total_orders", "total_revenue");
  return Response.json({ total_orders: Number(orders), total_revenue: Number(revenue) });
}

async function user({ params: { id } }: { params: { id: string } }) {
  const [orders, spend] = await redis.hmget(`user:${id}`, "order_count", "total_spend");
  return Response.json({ user_id: id, order_count: Number(orders), total_spend: Number(spend) });
}

const routes = { "/stats/global": global, "/users/:id/stats": user };
Bun.serve({ hostname: "127.0.0.1", port: Bun.env.PORT ?? "", routes });
