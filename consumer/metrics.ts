import { Counter, Histogram, Registry } from "prom-client";
import { ORDERS_TOTAL } from "../metric-names.ts";
import { countRequests } from "../queue/metrics.ts";
import { OUTCOMES, type Outcome } from "../store/store.ts";
import { ENVELOPES } from "./envelope.ts";

/** Seconds: from an order that is recorded at once to one that waited in the queue for a day. */
const LAG_BUCKETS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200, 86_400];
const APPLY_BUCKETS = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5];

export type ConsumerMetrics = ReturnType<typeof createConsumerMetrics>;

/** @returns the metrics of one worker. The main thread adds up those of all workers */
export function createConsumerMetrics() {
  const registry = new Registry();
  const registers = [registry];

  /** All series exist from the start. */
  function createCounter<Label extends string>(name: string, help: string, label: Label, values: readonly string[]) {
    const counter = new Counter({ name, help, labelNames: [label], registers });
    for (const value of values) counter.labels(value).inc(0);
    return counter;
  }

  const ordersHelp = "Orders by outcome. A corrected order is counted with the total of its items";
  const orders = createCounter(ORDERS_TOTAL, ordersHelp, "outcome", OUTCOMES);
  const envelopesHelp = "Orders of every outcome by the envelope that they arrived in";
  const envelopes = createCounter("order_envelopes_total", envelopesHelp, "envelope", ENVELOPES);
  const datesHelp = "Counted and corrected orders from more than a day ahead or from before 2000";
  const directions = ["future", "past"];
  const implausibleDates = createCounter("orders_implausible_date_total", datesHelp, "direction", directions);
  const lagSeconds = new Histogram({
    name: "order_lag_seconds",
    help: "Seconds from the SentTimestamp of a message until its order was recorded",
    buckets: LAG_BUCKETS,
    registers,
  });
  const applySeconds = new Histogram({
    name: "store_apply_seconds",
    help: "Seconds the store took to record a batch",
    buckets: APPLY_BUCKETS,
    registers,
  });
  return {
    registry,
    orders,
    envelopes,
    implausibleDates,
    lagSeconds,
    applySeconds,
    onRequest: countRequests(registry),
  };
}

/** One metric as JSON of prom-client. */
type Metric = { name: string; values: { value: number; labels: { outcome?: Outcome } }[] };

/** @returns the number of orders by outcome, summed over the metrics of several workers */
export function countOutcomes(metrics: readonly object[]): Record<Outcome, number> {
  const sums = Object.fromEntries(OUTCOMES.map((outcome) => [outcome, 0])) as Record<Outcome, number>;
  for (const { name, values } of metrics as readonly Metric[])
    for (const { value, labels } of name === ORDERS_TOTAL ? values : [])
      if (labels.outcome) sums[labels.outcome] += value;
  return sums;
}
