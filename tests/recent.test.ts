import { expect, test } from "bun:test";
import pino from "pino";
import { createRecent } from "../consumer/recent.ts";
import type { Message } from "../queue/queue.ts";
import { MAX_RECENT, type RecentOrder, type Store } from "../store/store.ts";

/** A collector before a store that does as told. */
function collector(remember: Store["remember"] = async () => {}, level = "trace") {
  const taken: string[][] = [];
  const lines: { event: string }[] = [];
  const state: { away?: string } = {};
  const log = pino({ level }, { write: (line: string) => void lines.push(JSON.parse(line)) });
  const store = {
    remember: async (orders: readonly RecentOrder[]) => {
      taken.push(orders.map(({ orderId }) => orderId ?? ""));
      await remember(orders);
    },
  } as Store;
  const gate = { reason: () => state.away } as Parameters<typeof createRecent>[0]["gate"];
  const recent = createRecent({ store, gate, log });
  const events = () => lines.map(({ event }) => event).filter((event) => event.startsWith("remember"));
  return { ...recent, taken, lines, events, state };
}

const message: Message = { id: "m", body: "", receiptHandle: "", sentAtMs: 0, attributes: {} };
const ids = (from: number, to: number) => Array.from({ length: to - from }, (_, index) => `${from + index}`);

test("of each outcome the newest hundred wait for the store", async () => {
  const { note, flush, taken } = collector();
  for (const orderId of ids(0, MAX_RECENT + 50)) note("duplicate", message, { orderId });
  note("corrected", message, { orderId: "c" });
  await flush();
  expect(taken).toEqual([["c", ...ids(50, MAX_RECENT + 50)]]);
});

test("nothing new is no call to the store", async () => {
  const { note, flush, taken } = collector();
  await flush();
  note("duplicate", message, { orderId: "a" });
  await flush();
  await flush();
  expect(taken).toEqual([["a"]]);
});

test("while the store is away they wait", async () => {
  const { note, flush, taken, state } = collector();
  state.away = "gone";
  note("rejected", message, { orderId: "a" });
  await flush();
  expect(taken).toEqual([]);
  delete state.away;
  await flush();
  expect(taken).toEqual([["a"]]);
});

test("a store that does not take them is one line, and one when it does again", async () => {
  let broken = true;
  const { note, flush, taken, events } = collector(async () => {
    if (broken) throw new Error("OOM");
  });
  for (const orderId of ["a", "b", "c", "d"]) {
    broken = orderId < "c";
    note("rejected", message, { orderId });
    await flush();
  }
  expect(taken).toEqual([["a"], ["b"], ["c"], ["d"]]);
  expect(events()).toEqual(["remember_failed", "remember_recovered"]);
});

test("a slow store is called once at a time, and misses nothing", async () => {
  let open = 0;
  let most = 0;
  const { note, flush, taken } = collector(async () => {
    most = Math.max(most, ++open);
    await Bun.sleep(20);
    open--;
  });
  const flushes = ["a", "b", "c"].map((orderId) => {
    note("rejected", message, { orderId });
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
  const quiet = collector(undefined, "error");
  quiet.note("rejected", message, { reason: "invalid_order", errors });
  expect({ built, lines: quiet.lines }).toEqual({ built: 0, lines: [] });
  const usual = collector(undefined, "info");
  usual.note("rejected", message, { reason: "invalid_order", errors });
  usual.note("corrected", message, { orderId: "c" });
  usual.note("duplicate", message, { orderId: "d" });
  expect(built).toBe(1);
  expect(usual.lines.map(({ event }) => event)).toEqual(["order_rejected", "order_corrected"]);
});
