import { expect, test } from "bun:test";
import pino from "pino";
import { createConsumerMetrics } from "../consumer/metrics.ts";
import { createOutcomes, type Processed } from "../consumer/outcomes.ts";
import type { Message } from "../queue/message.ts";
import { type HistoryEntry, MAX_RECENT, type RecentOrder, type Store } from "../store/store.ts";

const message: Message = { id: "m", body: "", receiptHandle: "", sentAtMs: 0, attributes: {} };

/** Outcomes before a store that is stopped or fails as the test wants it. */
function recorder(addRecent: Store["addRecent"] = async () => {}, level = "trace") {
  const taken: string[][] = [];
  const histories: HistoryEntry[][] = [];
  const lines: { event: string }[] = [];
  const state: { reason?: string } = {};
  const log = pino({ level }, { write: (line: string) => void lines.push(JSON.parse(line)) });
  const store = {
    addRecent: async (orders: readonly RecentOrder[]) => {
      taken.push(orders.map(({ orderId }) => orderId ?? ""));
      await addRecent(orders);
    },
    addHistory: async (entries: readonly HistoryEntry[]) => void histories.push([...entries]),
  } as Store;
  const metrics = createConsumerMetrics();
  const { report, flush } = createOutcomes({ store, availability: { reason: () => state.reason }, metrics, log });
  const note = (outcome: Processed["outcome"], details: Partial<Processed>) =>
    report([{ message, outcome, ...details }]);
  const events = () => lines.map(({ event }) => event).filter((event) => event.startsWith("remember"));
  return { note, flush, taken, histories, lines, events, state };
}

const ids = (from: number, to: number) => Array.from({ length: to - from }, (_, index) => `${from + index}`);

test("of each outcome the newest hundred wait for the store", async () => {
  const { note, flush, taken } = recorder();
  for (const orderId of ids(0, MAX_RECENT + 50)) note("duplicate", { orderId });
  note("corrected", { orderId: "c" });
  await flush();
  expect(taken).toEqual([[...ids(50, MAX_RECENT + 50), "c"]]);
});

test("duplicates of one order are one entry of the history with a count, and as many as there are displace no rejected order", async () => {
  const { note, flush, histories } = recorder();
  const errors = Array.from({ length: 20 }, (_, index) => ({ path: `/${index}`, message: "is required" }));
  note("rejected", { orderId: "o", reason: "first" });
  for (const orderId of ids(0, 2_000)) note("duplicate", { orderId });
  for (let copy = 0; copy < 3_000; copy++) note("duplicate", { orderId: "0" });
  for (const reason of ["2", "3", "4"]) note("rejected", { orderId: "o", reason, errors });
  for (const orderId of ids(0, 4_500)) note("rejected", { orderId, reason: "invalid_order" });
  note("rejected", { reason: "without an id" });
  note("counted", { orderId: "counted" });
  note("corrected", { orderId: "o", declared: 1, cents: 2 });
  await flush();
  await flush();
  expect(histories).toHaveLength(1);
  const [entries = []] = histories;
  const of = (outcome: string) => entries.filter((entry) => entry.outcome === outcome);
  expect([of("duplicate").length, of("rejected").length, of("corrected").length]).toEqual([999, 4_001, 0]);
  expect(of("duplicate")[0]).toMatchObject({ orderId: "0", count: 3_001, latest: [{ messageId: "m" }] });
  expect(of("rejected")[0]).toMatchObject({ orderId: "o", count: 4 });
  const latest = of("rejected")[0]?.latest ?? [];
  expect(latest.map(({ reason, errors }) => [reason, errors?.length])).toEqual([
    ["2", 5],
    ["3", 5],
    ["4", 5],
  ]);
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
