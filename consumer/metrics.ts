import { Counter, Histogram, Registry } from "prom-client";
import { countRequests } from "../queue/metrics.ts";

/** What became of an order. A corrected order is not also counted under `counted`. */
export const OUTCOMES = ["counted", "corrected", "duplicate", "rejected"] as const;
export type Outcome = (typeof OUTCOMES)[number];

/** From an order counted at once to one from a queue that was backed up for a day. */
const LAG_BUCKETS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200, 86_400];
const APPLY_BUCKETS = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5];

export type ConsumerMetrics = ReturnType<typeof createConsumerMetrics>;

/** The counters of one worker; the main thread adds those of all workers up. */
export function createConsumerMetrics() {
  const registry = new Registry();
  const registers = [registry];
  const orders = new Counter({
    name: "orders_total",
    help: "Orders by outcome; a corrected one counts the total of its items",
    labelNames: ["outcome"],
    registers,
  });
  for (const outcome of OUTCOMES) orders.inc({ outcome }, 0);
  const lagSeconds = new Histogram({
    name: "order_lag_seconds",
    help: "Seconds from the SentTimestamp of the message to the order applied",
    buckets: LAG_BUCKETS,
    registers,
  });
  const applySeconds = new Histogram({
    name: "store_apply_seconds",
    help: "Seconds the store took to record a batch",
    buckets: APPLY_BUCKETS,
    registers,
  });
  return { registry, orders, lagSeconds, applySeconds, onRequest: countRequests(registry) };
}
