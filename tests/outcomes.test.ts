import { expect, test } from "bun:test";
import pino from "pino";
import { createConsumerMetrics } from "../consumer/metrics.ts";
import { createOutcomes, type Processed } from "../consumer/outcomes.ts";
import type { Message } from "../queue/message.ts";
import { MAX_RECENT, type RecentOrder, type Store } from "../store/store.ts";

const message: Message = { id: "m", body: "", receiptHandle: "", sentAtMs: 0, attributes: {} };

/** Outcomes before a store that is stopped or fails as the test wants it. */
function recorder(addRecent: Store["addRecent"] = async () => {}, level = "trace") {
  const taken: string[][] = [];
  const lines: { event: string }[] = [];
  const state: { reason?: string } = {};
  const log = pino({ level }, { write: (line: string) => void lines.push(JSON.parse(line)) });
  const store = {
    addRecent: async (orders: readonly RecentOrder[]) => {
      taken.push(orders.map(({ orderId }) => orderId ?? ""));
      await addRecent(orders);
    },
  } as Store;
  const metrics = createConsumerMetrics();
  const { report, flush } = createOutcomes({ store, availability: { reason: () => state.reason }, metrics, log });
  const note = (outcome: Processed["outcome"], details: Partial<Processed>) =>
    report([{ message, outcome, ...details }]);
  const events = () => lines.map(({ event }) => event).filter((event) => event.startsWith("remember"));
  return { note, flush, taken, lines, events, state };
}

const ids = (from: number, to: number) => Array.from({ length: to - from }, (_, index) => `${from + index}`);

test("of each outcome the newest hundred wait for the store", async () => {
  const { note, flush, taken } = recorder();
  for (const orderId of ids(0, MAX_RECENT + 50)) note("duplicate", { orderId });
  note("corrected", { orderId: "c" });
  await flush();
  expect(taken).toEqual([[...ids(50, MAX_RECENT + 50), "c"]]);
});

test("nothing new is no call to the store", async () => {
  const { note, flush, taken } = recorder();
  await flush();
  note("duplicate", { orderId: "a" });
  await flush();
  await flush();
  expect(taken).toEqual([["a"]]);
});

test("while the store is unavailable they wait", async () => {
  const { note, flush, taken, state } = recorder();
  state.reason = "gone";
  note("rejected", { orderId: "a" });
  await flush();
  expect(taken).toEqual([]);
  delete state.reason;
  await flush();
  expect(taken).toEqual([["a"]]);
});

test("a store that does not take them is one line, and one when it does again", async () => {
  let broken = true;
  const { note, flush, taken, events } = recorder(async () => {
    if (broken) throw new Error("OOM");
  });
  for (const orderId of ["a", "b", "c", "d"]) {
    broken = orderId < "c";
    note("rejected", { orderId });
    await flush();
  }
  expect(taken).toEqual([["a"], ["b"], ["c"], ["d"]]);
  expect(events()).toEqual(["remember_failed", "remember_recovered"]);
});

test("a slow store is called once at a time, and misses nothing", async () => {
  let open = 0;
  let most = 0;
  const { note, flush, taken } = recorder(async () => {
    most = Math.max(most, ++open);
    await Bun.sleep(20);
    open--;
  });
  const flushes = ["a", "b", "c"].map((orderId) => {
    note("rejected", { orderId });
    return flush();
  });
  await Promise.all(flushes);
  expect(most).toBe(1);
  expect(taken.flat()).toEqual(["a", "b", "c"]);
});

test("a line that the level leaves out is not even built", () => {
  const errors = [{ path: "/items", message: "" }];
  let built = 0;
  errors.map = (() => {
    built++;
    return [];
  }) as typeof errors.map;
  const quiet = recorder(undefined, "error");
  quiet.note("rejected", { reason: "invalid_order", errors });
  expect({ built, lines: quiet.lines }).toEqual({ built: 0, lines: [] });
  const usual = recorder(undefined, "info");
  usual.note("rejected", { reason: "invalid_order", errors });
  usual.note("corrected", { orderId: "c" });
  usual.note("duplicate", { orderId: "d" });
  expect(built).toBe(1);
  expect(usual.lines.map(({ event }) => event)).toEqual(["order_rejected", "order_corrected"]);
});
