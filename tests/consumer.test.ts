import { afterAll, beforeAll, describe, expect, setDefaultTimeout, setSystemTime, test } from "bun:test";
import { join } from "node:path";
import pino from "pino";
import { createConsumerMetrics } from "../consumer/metrics.ts";
import { createOutcomes } from "../consumer/outcomes.ts";
import { pollOnce, startPolling } from "../consumer/poller.ts";
import type { ConsumerDeps } from "../consumer/process-batch.ts";
import { createStoreAvailability } from "../consumer/store-availability.ts";
import type { Emulator } from "../queue/emulator.ts";
import { openQueue, type Queue } from "../queue/queue.ts";
import { ENVELOPES } from "../scripts/envelopes.ts";
import { createBatchWrites } from "../store/batch-writes.ts";
import { openStore } from "../store/open.ts";
import type { RecentOrder } from "../store/store.ts";
import { body } from "./support/orders.ts";
import { observedQueue, switchableStore } from "./support/outages.ts";
import { temporaryFolder } from "./support/program.ts";
import { deadLettersOf, freshFifoQueue, freshQueue, releaseAll, startFastEmulator, takeAll } from "./support/queues.ts";
import { waitFor } from "./support/wait-for.ts";

// Real processes on a busy machine: bun's five seconds would fail a test that is only slow.
setDefaultTimeout(60_000);

let emulator: Emulator;
beforeAll(async () => {
  emulator = await startFastEmulator();
});
afterAll(() => emulator.stop());

const never = new AbortController().signal;
const NO_MESSAGES = { visible: 0, inFlight: 0, deadLetter: 0 };

/** A consumer's parts on a fresh queue and a fresh store, with switches. */
async function consumer(
  overrides: {
    queue?: (real: Queue) => Partial<Queue>;
    onValueMismatch?: "reject";
    onImplausibleDate?: "reject";
    /** The store is switched off from the beginning. */
    off?: boolean;
    fresh?: typeof freshFifoQueue;
  } = {},
) {
  const stopping = new AbortController();
  const real = await (overrides.fresh ?? freshQueue)(emulator);
  const { queue, calls } = observedQueue(real, overrides.queue?.(real));
  const path = join(temporaryFolder(), "orders.db");
  const { store, turn } = switchableStore(await openStore({ kind: "sqlite", path }));
  const { check, checkThoroughly } = store;
  let checks = 0;
  const counted = (call: () => Promise<void>) => async () => {
    checks++;
    await call();
  };
  Object.assign(store, { check: counted(check), checkThoroughly: counted(checkThoroughly) });
  if (overrides.off) turn("off");
  const lines: { event: string; level: number }[] = [];
  const log = pino({ level: "trace" }, { write: (line: string) => void lines.push(JSON.parse(line)) });
  const metrics = createConsumerMetrics();
  const availability = createStoreAvailability({ store, log }, stopping.signal);
  await availability.start();
  const remembered: RecentOrder[] = [];
  const addRecent = async (orders: readonly RecentOrder[]) => void remembered.push(...orders);
  const outcomes = createOutcomes({ store: { ...store, addRecent }, availability, metrics, log });
  const deps: ConsumerDeps = {
    queue,
    store,
    record: createBatchWrites((orders) => deps.store.record(orders)),
    availability,
    outcomes,
    metrics,
    log,
    onValueMismatch: overrides.onValueMismatch ?? "correct",
    onImplausibleDate: overrides.onImplausibleDate ?? "count",
    offsetAt: () => 0,
  };

  /** The values of a counter with one label, by the value of the label. */
  async function counts(of: "orders" | "envelopes" | "implausibleDates" = "orders") {
    const { values } = await metrics[of].get();
    return Object.fromEntries(values.map(({ labels, value }) => [Object.values(labels)[0], value]));
  }

  async function close() {
    stopping.abort();
    await store.close();
    queue.close();
  }

  const events = () => lines.map(({ event }) => event);
  return {
    deps,
    queue: real,
    store,
    calls,
    lines,
    events,
    checks: () => checks,
    remembered,
    counts,
    stopping,
    turn,
    [Symbol.asyncDispose]: close,
  };
}

/** One step and its deletes. */
async function pollAll(deps: ConsumerDeps): Promise<number> {
  const { received, deleted } = await pollOnce(deps, 0, never);
  await deleted;
  return received;
}

describe("pollOnce()", () => {
  test("counts, corrects, recognises copies, dead-letters rejected orders and leaves an empty queue", async () => {
    await using c = await consumer();
    const corrected = {
      order_id: "c",
      order_value: 99.99,
      items: [{ product_id: "P", quantity: 2, price_per_unit: 20 }],
    };
    const copy = body({ order_id: "copy", user_id: "U2" });
    const rejects = ["{", body({ order_value: "10", items: [] })];
    await c.queue.send([body(), body(corrected), copy, copy, ...rejects]);
    expect(await pollAll(c.deps)).toBe(6);
    expect(await c.counts()).toEqual({ counted: 2, corrected: 1, duplicate: 1, rejected: 2 });
    expect(await c.store.global()).toEqual({ orders: 3, cents: 6000 });
    expect(await c.store.user("U1")).toEqual({ orders: 2, cents: 5000 });
    expect(await c.store.top("w:2024-W50", 9)).toEqual([
      { userId: "U1", orders: 2, cents: 5000 },
      { userId: "U2", orders: 1, cents: 1000 },
    ]);
    expect(await c.queue.depth()).toEqual({ ...NO_MESSAGES, deadLetter: 2 });
    const dead = await takeAll(deadLettersOf(c.queue));
    expect(dead.map((message) => [message.body, message.attributes.RejectReason?.StringValue])).toEqual([
      [rejects[0] as string, "invalid_json"],
      [rejects[1] as string, "invalid_order"],
    ]);
    const errors = JSON.parse(dead[1]?.attributes.RejectErrors?.StringValue ?? "");
    expect(errors.map(({ path }: { path: string }) => path)).toEqual(["/order_value", "/items"]);
  });

  test("logs and keeps corrected, rejected and duplicate orders, with their trace, but not counted ones", async () => {
    await using c = await consumer();
    const traceId = "0af7651916cd43dd8448eb211c80319c";
    const traceparent = { DataType: "String", StringValue: `00-${traceId}-b7ad6b7169203331-01` };
    c.deps.queue = {
      ...c.deps.queue,
      receive: async (...args) => {
        const messages = await c.queue.receive(...args);
        return messages.map((message) => ({ ...message, attributes: { traceparent } }));
      },
    };
    const copy = body({ order_id: "copy" });
    await c.queue.send([
      copy,
      copy,
      body({ order_id: "c", order_value: 99.99 }),
      body({ order_id: "r", items: [] }),
      "{",
    ]);
    await pollAll(c.deps);
    await c.deps.outcomes.flush();
    const about = { atMs: expect.any(Number), messageId: expect.any(String), traceId };
    const errors = [{ path: "/items", message: expect.any(String) }];
    const syntax = [{ path: "", message: expect.any(String) }];
    expect(c.remembered).toEqual([
      { ...about, outcome: "duplicate", orderId: "copy", userId: "U1" },
      { ...about, outcome: "corrected", orderId: "c", userId: "U1", declared: 99.99, cents: 1000 },
      { ...about, outcome: "rejected", orderId: "r", userId: "U1", reason: "invalid_order", errors },
      { ...about, outcome: "rejected", reason: "invalid_json", errors: syntax },
    ]);
    const of = { time: expect.any(Number), pid: expect.any(Number), hostname: expect.any(String) };
    const line = { ...of, message_id: expect.any(String), trace_id: traceId };
    const byEvent = c.lines.toSorted((a, b) => a.level - b.level);
    expect(byEvent as object[]).toEqual([
      { ...line, level: 20, event: "order_duplicate", order_id: "copy", user_id: "U1" },
      { ...line, level: 30, event: "order_corrected", order_id: "c", user_id: "U1", declared: 99.99, counted: 10 },
      {
        ...line,
        level: 40,
        event: "order_rejected",
        order_id: "r",
        user_id: "U1",
        reason: "invalid_order",
        paths: ["/items"],
      },
      { ...line, level: 40, event: "order_rejected", reason: "invalid_json", paths: [""] },
    ]);
  });

  test("counts orders in envelopes, each once, and dead-letters what is wrong with its body unchanged", async () => {
    await using c = await consumer();
    const wrapped = (kind: keyof typeof ENVELOPES, fields = {}) => ENVELOPES[kind](body(fields), 1, Date.now());
    const twice = wrapped("sns", { order_id: "twice" });
    const wrong = { order_id: "twice", items: [] };
    const rejects = [wrapped("sns+eventbridge", { order_id: "wrong", items: [] }), ENVELOPES.sns("no JSON", 2, 0), "{"];
    const others = [body(), body({ order_id: "twice" }), twice, wrapped("eventbridge", wrong)];
    await c.queue.send([twice, wrapped("eventbridge"), wrapped("sns+eventbridge"), ...others, ...rejects]);
    await pollAll(c.deps);
    expect(await c.counts()).toEqual({ counted: 4, corrected: 0, duplicate: 3, rejected: 3 });
    expect(await c.counts("envelopes")).toEqual({ none: 3, sns: 3, eventbridge: 2, "sns+eventbridge": 2 });
    expect(await c.store.global()).toEqual({ orders: 4, cents: 4000 });
    const dead = await takeAll(deadLettersOf(c.queue));
    expect(new Set(dead.map((message) => message.body))).toEqual(new Set(rejects));
    const pathsIn = (text = "") => JSON.parse(text).map(({ path }: { path: string }) => path);
    const paths = dead.map(({ attributes }) => pathsIn(attributes.RejectErrors?.StringValue));
    expect(paths.flat().sort()).toEqual(["", "/Message", "/Message/detail/items"]);
    await c.deps.outcomes.flush();
    for (const order of c.remembered) expect(order).not.toContainAnyKeys(["envelope", "notes"]);
    expect(c.remembered.map(({ orderId }) => orderId)).toContain("wrong");
  });

  test("counts an order with an implausible date, and reports it once, not its copies", async () => {
    await using c = await consumer();
    const future = { order_id: "future", order_timestamp: `${new Date().getUTCFullYear() + 2}-01-01T00:00:00Z` };
    const past = { order_id: "past", order_timestamp: "1999-12-31T23:59:59Z", order_value: 99.99 };
    await c.queue.send([body(future), body(future), ENVELOPES.sns(body(past), 1, 0), body()]);
    await pollAll(c.deps);
    await c.queue.send([body(past), body({ ...future, items: [] })]);
    await pollAll(c.deps);
    await c.deps.outcomes.flush();
    expect(await c.counts()).toEqual({ counted: 2, corrected: 1, duplicate: 3, rejected: 0 });
    expect(await c.counts("implausibleDates")).toEqual({ future: 1, past: 1 });
    expect(await c.store.daily(["1999-12-31", future.order_timestamp.slice(0, 10)])).toEqual([
      { orders: 1, cents: 1000 },
      { orders: 1, cents: 1000 },
    ]);
    const about = { atMs: expect.any(Number), messageId: expect.any(String), userId: "U1" };
    const date = future.order_timestamp.slice(0, 10);
    expect(c.remembered.filter(({ outcome }) => outcome === "implausible_date")).toEqual([
      { ...about, outcome: "implausible_date", orderId: "future", day: date },
      { ...about, outcome: "implausible_date", orderId: "past", day: "1999-12-31", declared: 99.99, cents: 1000 },
    ]);
    expect(c.remembered.filter(({ outcome }) => outcome === "corrected")).toEqual([
      { ...about, outcome: "corrected", orderId: "past", declared: 99.99, cents: 1000 },
    ]);
    expect(c.lines.filter(({ event }) => event === "order_implausible_date")).toMatchObject([
      { level: 40, order_id: "future", date },
      { level: 40, order_id: "past", date: "1999-12-31" },
    ]);
  });

  test("rejects an order with an implausible date when configured to", async () => {
    await using c = await consumer({ onImplausibleDate: "reject" });
    await c.queue.send([body({ order_timestamp: "1999-12-31T23:59:59Z" }), body()]);
    await pollAll(c.deps);
    expect(await c.counts()).toEqual({ counted: 1, corrected: 0, duplicate: 0, rejected: 1 });
    expect(await c.counts("implausibleDates")).toEqual({ future: 0, past: 0 });
    const [dead] = await takeAll(deadLettersOf(c.queue));
    expect(dead?.attributes.RejectReason?.StringValue).toBe("invalid_order");
    expect(dead?.attributes.RejectErrors?.StringValue).toContain("/order_timestamp");
  });

  test("logs once that an order has another currency than the first one", async () => {
    await using c = await consumer();
    const ofCurrency = (currency: unknown, order_id: string) => body({ currency, order_id });
    await c.queue.send([body(), ofCurrency(7, "a"), ofCurrency("EUR", "b"), ofCurrency("EUR", "c")]);
    await pollAll(c.deps);
    expect(c.events()).not.toContain("currency_differs");
    await c.queue.send([ofCurrency("USD", "d"), ofCurrency("JPY", "e")]);
    await pollAll(c.deps);
    const lines = c.lines.filter(({ event }) => event === "currency_differs");
    expect(lines).toMatchObject([{ level: 40, order_id: "d", currency: "USD", first: "EUR" }]);
    expect(lines[0]).toHaveProperty("message_id", expect.stringMatching(/./));
    expect(await c.counts()).toMatchObject({ counted: 6 });
  });

  test("names message and order in the line of a delete that SQS refuses", async () => {
    await using c = await consumer({
      queue: () => ({ delete: async (messages) => messages.map((message) => ({ message, reason: "InternalError" })) }),
    });
    await c.queue.send([body({ order_id: "kept" }), body({ order_id: "", user_id: "U2" })]);
    await pollAll(c.deps);
    const failed = c.lines.filter(({ event }) => event === "delete_failed");
    expect(failed).toMatchObject([{ order_id: "kept", reason: "InternalError" }, { reason: "InternalError" }]);
    for (const line of failed) expect(line).toHaveProperty("message_id", expect.stringMatching(/./));
  });

  test("one order goes by one message id, also after it was moved back, and attributes that do not fit are named", async () => {
    await using c = await consumer();
    const text = (StringValue: string) => ({ DataType: "String", StringValue });
    const attributes = Object.fromEntries([..."abcdefghij"].map((name) => [name, text("x")]));
    let refused = true;
    c.deps.queue = {
      ...c.deps.queue,
      receive: async (...args) => {
        const messages = await c.queue.receive(...args);
        return messages.map((message) => ({ ...message, attributes: { ...attributes, ...message.attributes } }));
      },
      deadLetter: async (rejected, ...args) => {
        if (!refused) return await c.queue.deadLetter(rejected, ...args);
        // It calls back for what it tries to send.
        args[0]?.(rejected[0]?.message as never, ["j"]);
        return rejected.map(({ message }) => ({ message, reason: "full" }));
      },
      delete: async (messages) => {
        await c.queue.delete(messages);
        return messages.map((message) => ({ message, reason: "late" }));
      },
    };
    await c.queue.send(["{"]);
    await pollAll(c.deps);
    refused = false;
    await releaseAll(c.queue);
    await pollAll(c.deps);
    const deadLetters = deadLettersOf(c.queue);
    const dead = await takeAll(deadLetters);
    expect(await c.queue.redrive(dead)).toEqual([]);
    await pollAll(c.deps);
    refusePoison(c.deps);
    const [again] = await takeAll(deadLetters);
    const poison = body({ order_id: "poison" });
    expect(await c.queue.redrive(again ? [{ ...again, body: poison }] : [])).toEqual([]);
    await pollAll(c.deps);
    await c.deps.outcomes.flush();
    const first = dead[0]?.attributes.OriginalMessageId?.StringValue;
    expect([first === dead[0]?.id, again?.attributes.OriginalMessageId?.StringValue]).toEqual([false, first]);
    expect(c.remembered.map(({ messageId }) => messageId)).toEqual([first, first] as string[]);
    const events = c.lines.map((line) => [line.event, (line as { message_id?: string }).message_id]);
    const rejection = ["attributes_dropped", "order_rejected", "delete_failed"].map((event) => [event, first]);
    expect(events).toEqual([
      ["dead_letter_failed", first],
      ...rejection,
      ...rejection,
      ["order_refused", first],
    ] as never);
    expect(c.lines.find(({ event }) => event === "attributes_dropped")).toMatchObject({
      level: 40,
      attributes: ["h", "i", "j"],
    });
  });

  test("rejects a mismatch instead of correcting it when configured to", async () => {
    await using c = await consumer({ onValueMismatch: "reject" });
    await c.queue.send([body({ order_value: 99.99 })]);
    await pollAll(c.deps);
    expect(await c.store.global()).toEqual({ orders: 0, cents: 0 });
    const [dead] = await takeAll(deadLettersOf(c.queue));
    expect(dead?.attributes.RejectReason?.StringValue).toBe("value_mismatch");
  });

  test.each([
    ["with another order_value", { order_value: 99.99 }],
    ["with an invalid item", { items: [{ product_id: "P", quantity: 0, price_per_unit: 1 }] }],
    ["without a user", { user_id: "" }],
  ])("a copy of a counted order is a duplicate also %s", async (_, changed) => {
    await using c = await consumer({ onValueMismatch: "reject" });
    await c.queue.send([body({ order_id: "counted before" }), body({ order_id: "never counted", ...changed })]);
    await pollAll(c.deps);
    const copies = ["counted before", "counted with its copy"].map((order_id) => body({ order_id, ...changed }));
    await c.queue.send([...copies, body({ order_id: "counted with its copy" })]);
    await pollAll(c.deps);
    expect(await c.counts()).toEqual({ counted: 2, corrected: 0, duplicate: 2, rejected: 1 });
    expect(await c.queue.depth()).toEqual({ visible: 0, inFlight: 0, deadLetter: 1 });
  });

  test("a rejected order is not dead-lettered while the store cannot tell whether it is a duplicate", async () => {
    await using c = await consumer();
    const { isCounted } = c.deps.store;
    let broken = true;
    c.deps.store.isCounted = async (id) => {
      if (broken) throw new Error("connection lost");
      return await isCounted(id);
    };
    await c.queue.send([body({ order_id: "bad", items: [] }), body()]);
    const polling = pollAll(c.deps);
    await waitFor("the outage", () => c.events().includes("store_unavailable"));
    expect(await c.queue.depth()).toEqual({ visible: 0, inFlight: 2, deadLetter: 0 });
    broken = false;
    await polling;
    expect(await c.counts()).toMatchObject({ counted: 1, duplicate: 0, rejected: 1 });
    expect(await c.queue.depth()).toEqual({ visible: 0, inFlight: 0, deadLetter: 1 });
  });

  test("deletes nothing before the store has answered", async () => {
    await using c = await consumer();
    const { record } = c.deps.store;
    c.deps.store = {
      ...c.deps.store,
      record: async (orders) => {
        expect(c.calls).toEqual(["receive"]);
        return await record(orders);
      },
    };
    await c.queue.send([body(), body()]);
    await pollAll(c.deps);
    expect(c.calls).toEqual(["receive", "delete"]);
  });

  test("a batch whose delete fails comes back as duplicates", async () => {
    let broken = true;
    await using c = await consumer({
      queue: (real) => ({
        delete: async (messages) => {
          if (broken) throw new Error("connection reset");
          return await real.delete(messages);
        },
      }),
    });
    await c.queue.send([body(), body()]);
    await expect(pollAll(c.deps)).rejects.toThrow("connection reset");
    broken = false;
    await releaseAll(c.queue);
    await pollAll(c.deps);
    expect(await c.counts()).toMatchObject({ counted: 2, duplicate: 2 });
    expect(await c.store.global()).toEqual({ orders: 2, cents: 2000 });
    expect(await c.queue.depth()).toEqual(NO_MESSAGES);
  });

  test("a reject that the dead-letter queue refuses stays in the queue", async () => {
    await using c = await consumer({
      queue: () => ({
        deadLetter: async (rejected) => rejected.map(({ message }) => ({ message, reason: "full" })),
      }),
    });
    await c.queue.send([body({ order_id: "bad", items: [] }), body()]);
    await pollAll(c.deps);
    expect(await c.queue.depth()).toEqual({ visible: 0, inFlight: 1, deadLetter: 0 });
    expect(await c.counts()).toMatchObject({ counted: 1, rejected: 0 });
    expect(c.lines).toMatchObject([
      { event: "dead_letter_failed", order_id: "bad", message_id: expect.any(String), reason: "full" },
    ]);
  });

  test.each([
    ["a standard queue", freshQueue, [1, 2, 4]],
    ["a FIFO queue", freshFifoQueue, []],
  ])("a reject of %s that cannot be dead-lettered is postponed longer each time", async (_, fresh, expected) => {
    const timeouts: number[] = [];
    await using c = await consumer({
      fresh,
      queue: (real) => ({
        deadLetter: async (rejected) => rejected.map(({ message }) => ({ message, reason: "full" })),
        changeVisibility: async (messages, seconds) => {
          timeouts.push(seconds / real.address.visibilityTimeoutSeconds);
          return await real.changeVisibility(messages, seconds);
        },
      }),
    });
    await c.queue.send(["{"], ["g"]);
    for (let receive = 0; receive < 3; receive++) {
      await pollAll(c.deps);
      await releaseAll(c.queue);
    }
    expect(timeouts).toEqual(expected);
  });

  test("an order that the store refuses is left in the queue and the rest of its batch counts", async () => {
    await using c = await consumer();
    refusePoison(c.deps);
    await c.queue.send([body(), body({ order_id: "poison" }), body()]);
    await pollAll(c.deps);
    expect(await c.store.global()).toEqual({ orders: 2, cents: 2000 });
    expect(await c.queue.depth()).toEqual({ visible: 0, inFlight: 1, deadLetter: 0 });
    expect(c.lines).toMatchObject([{ event: "order_refused", order_id: "poison" }]);
  });
});

/** As the Redis store does with orders whose user's key holds another program's data. @returns a way to end it */
function refusePoison(deps: ConsumerDeps) {
  const { record } = deps.store;
  let refuses = true;
  deps.store.record = async (orders) => {
    const accepted = orders.filter(({ id }) => !refuses || id !== "poison");
    const recorded = await record(accepted);
    return orders.map((one) => (accepted.includes(one) ? (recorded.shift() as "recorded") : "refused"));
  };
  return () => {
    refuses = false;
  };
}

test("an order of a FIFO queue that the store refuses holds up its group, and no order of its batch or another group", async () => {
  await using c = await consumer({ fresh: freshFifoQueue });
  const accept = refusePoison(c.deps);
  await c.queue.send([body(), body({ order_id: "poison" }), body(), body()], ["g", "g", "g", "h"]);
  expect(await pollAll(c.deps)).toBe(4);
  await c.queue.send([body(), body()], ["g", "h"]);
  expect(await pollAll(c.deps)).toBe(1);
  expect(await c.store.global()).toEqual({ orders: 4, cents: 4000 });
  expect(await c.queue.depth()).toEqual({ visible: 1, inFlight: 1, deadLetter: 0 });
  accept();
  await releaseAll(c.queue);
  expect(await pollAll(c.deps)).toBe(2);
  expect(await c.store.global()).toEqual({ orders: 6, cents: 6000 });
  expect(await c.queue.depth()).toEqual(NO_MESSAGES);
});

describe("while the store is unavailable", () => {
  test.each([
    ["a standard queue", freshQueue],
    ["a FIFO queue", freshFifoQueue],
  ])("a held batch of %s stays hidden, nothing is received, and all counts when it is back", async (_, fresh) => {
    await using c = await consumer({ fresh });
    c.turn("off");
    const groups = Array(10).fill("g");
    await c.queue.send(
      groups.map(() => body()),
      groups,
    );
    const poller = startPolling(c.deps, 4, c.stopping.signal);
    await waitFor("the batch to be held", () => c.calls.includes("changeVisibility"));
    await c.queue.send([body()], ["h"]);
    await waitFor("a few looks at the store", () => c.calls.filter((name) => name === "receive").length > 0, 500).catch(
      () => {},
    );
    expect(c.calls.filter((name) => name === "receive")).toHaveLength(1);
    expect(await c.queue.depth()).toEqual({ visible: 1, inFlight: 10, deadLetter: 0 });
    expect(c.events()).toEqual(["store_unavailable"]);
    c.turn("on");
    await waitFor("the queue to be empty", async () => Bun.deepEquals(await c.queue.depth(), NO_MESSAGES));
    expect(await c.store.global()).toEqual({ orders: 11, cents: 11_000 });
    expect(c.events()).toEqual(["store_unavailable", "store_available"]);
    c.stopping.abort();
    await poller.done;
  });

  test("a receive loop that is done does not receive again while another one keeps its batch", async () => {
    await using c = await consumer();
    for (let batch = 0; batch < 40; batch++) await c.queue.send(Array.from({ length: 10 }, () => body()));
    const { record } = c.deps.store;
    let records = 0;
    c.deps.store = {
      ...c.deps.store,
      record: async (orders) => {
        records++;
        // The first full batch opens a second lane. One of the two finds the store away, the other one was in time.
        if (records === 2) c.turn("off");
        if (records !== 3) return await record(orders);
        await waitFor("the outage", () => c.events().includes("store_unavailable"));
        return orders.map(() => "duplicate" as const);
      },
    };
    const poller = startPolling(c.deps, 2, c.stopping.signal);
    await waitFor(
      "the batch that was in time to be settled",
      () => c.calls.filter((name) => name === "delete").length === 2,
    );
    await Bun.sleep(1_500); // longer than a receive loop waits between two receives
    expect(c.calls.filter((name) => name === "receive")).toHaveLength(3);
    c.turn("on");
    await waitFor("all other orders", async () => (await c.store.global().catch(() => undefined))?.orders === 390);
    c.stopping.abort();
    await poller.done;
  });

  test.each([
    ["a standard queue", freshQueue],
    ["a FIFO queue", freshFifoQueue],
  ])("a stop releases the held batch of %s at once", async (_, fresh) => {
    await using c = await consumer({ fresh });
    c.turn("off");
    await c.queue.send([body(), "{"], ["g", "g"]);
    const poller = startPolling(c.deps, 4, c.stopping.signal);
    await waitFor("the batch to be held", () => c.calls.includes("changeVisibility"));
    const before = performance.now();
    c.stopping.abort();
    await poller.done;
    expect(performance.now() - before).toBeLessThan(1000);
    expect(await c.queue.depth()).toEqual({ visible: 2, inFlight: 0, deadLetter: 0 });
  });
});

describe("startPolling()", () => {
  test("drains a full queue with several receives in flight, and settles down to one", async () => {
    let open = 0;
    let most = 0;
    await using c = await consumer({
      queue: (real) => ({
        receive: async (wait, signal) => {
          most = Math.max(most, ++open);
          return await real.receive(wait, signal).finally(() => open--);
        },
      }),
    });
    for (let batch = 0; batch < 60; batch++) await c.queue.send(Array.from({ length: 10 }, () => body()));
    const poller = startPolling(c.deps, 4, c.stopping.signal);
    await waitFor("600 orders", async () => (await c.store.global()).orders === 600);
    expect(most).toBe(4);
    await waitFor("a single long poll", () => open === 1);
    await waitFor("an empty queue", async () => Bun.deepEquals(await c.queue.depth(), NO_MESSAGES));
    const before = performance.now();
    c.stopping.abort();
    await poller.done;
    expect(performance.now() - before).toBeLessThan(2_000);
  });

  test("drains a FIFO queue of many groups, with copies and rejects in them", async () => {
    await using c = await consumer({ fresh: freshFifoQueue });
    const users = Array.from({ length: 12 }, (_, index) => `U${index}`);
    // Of each user, in one group: nine orders, a copy of one, and a body that is none; of the first user, 25 more.
    for (const user_id of users) {
      const copy = body({ user_id, order_id: `copy of ${user_id}` });
      const others = Array.from({ length: 7 }, () => body({ user_id }));
      await c.queue.send([copy, ...others, `{${user_id}`, copy], Array(10).fill(user_id));
    }
    for (let sent = 0; sent < 25; sent++) await c.queue.send([body({ user_id: "U0" })], ["U0"]);
    const poller = startPolling(c.deps, 4, c.stopping.signal);
    const drained = { ...NO_MESSAGES, deadLetter: users.length };
    await waitFor("an empty queue", async () => Bun.deepEquals(await c.queue.depth(), drained));
    c.stopping.abort();
    await poller.done;
    expect(await c.counts()).toEqual({ counted: 121, corrected: 0, duplicate: 12, rejected: 12 });
    expect(await c.store.global()).toEqual({ orders: 121, cents: 121_000 });
    const dead = await takeAll(deadLettersOf(c.queue));
    const described = dead.map(({ body, groupId, attributes }) => [
      body,
      groupId,
      attributes.RejectReason?.StringValue,
    ]);
    expect(described.sort()).toEqual(users.map((user) => [`{${user}`, user, "invalid_json"]).sort());
  });

  test("keeps polling after errors, with one line for the first and one for the recovery", async () => {
    let failures = 3;
    await using c = await consumer({
      queue: (real) => ({
        receive: async (wait, signal) => {
          if (failures-- > 0) throw new Error("ReceiveMessage failed: connection refused");
          return await real.receive(wait, signal);
        },
      }),
    });
    await c.queue.send([body()]);
    const poller = startPolling(c.deps, 2, c.stopping.signal);
    await waitFor("the order", async () => (await c.store.global()).orders === 1);
    await waitFor("the recovery", () => c.events().length === 2);
    expect(c.events()).toEqual(["polling_failed", "polling_recovered"]);
    c.stopping.abort();
    await poller.done;
  });

  test("a stop lets the current batch be processed", async () => {
    await using c = await consumer();
    await c.queue.send([body()]);
    const { record } = c.deps.store;
    c.deps.store = {
      ...c.deps.store,
      record: async (orders) => {
        c.stopping.abort();
        return await record(orders);
      },
    };
    await startPolling(c.deps, 2, c.stopping.signal).done;
    expect(await c.queue.depth()).toEqual(NO_MESSAGES);
    expect(await c.counts()).toMatchObject({ counted: 1 });
  });

  test("a stop waits for a batch that is on its way, and settles it", async () => {
    await using c = await consumer({
      queue: (real) => ({
        receive: async (wait, signal) => {
          const messages = await real.receive(wait, signal);
          c.stopping.abort();
          await Bun.sleep(50); // the response takes time to arrive
          signal.throwIfAborted();
          return messages;
        },
      }),
    });
    await c.queue.send([body()]);
    await startPolling(c.deps, 2, c.stopping.signal).done;
    expect(await c.queue.depth()).toEqual(NO_MESSAGES);
    expect(await c.counts()).toMatchObject({ counted: 1 });
  });

  test("receives the next batch while the last one is being deleted, and deletes it before the end", async () => {
    let release = () => {};
    const held = new Promise<void>((resolve) => {
      release = resolve;
    });
    await using c = await consumer({
      queue: (real) => ({
        delete: async (messages) => {
          await held;
          return await real.delete(messages);
        },
      }),
    });
    await c.queue.send(Array.from({ length: 10 }, () => body()));
    const poller = startPolling(c.deps, 1, c.stopping.signal);
    await waitFor("the next receive", () => c.calls.filter((name) => name === "receive").length === 2);
    expect(await c.store.global()).toMatchObject({ orders: 10 });
    c.stopping.abort();
    let done = false;
    void poller.done.then(() => {
      done = true;
    });
    await Bun.sleep(100); // nothing shows that a receive loop goes on waiting
    expect(done).toBeFalse();
    release();
    await poller.done;
    expect(await c.queue.depth()).toEqual(NO_MESSAGES);
  });

  test("reports why receives keep failing, until they succeed", async () => {
    let broken = true;
    await using c = await consumer({
      queue: (real) => ({
        receive: async (wait, signal) => {
          if (broken) throw new Error("ReceiveMessage failed: AccessDenied");
          return await real.receive(wait, signal);
        },
      }),
    });
    const poller = startPolling(c.deps, 2, c.stopping.signal);
    expect(poller.failure()).toBeUndefined();
    await waitFor("the reason", () => poller.failure() === "ReceiveMessage failed: AccessDenied");
    broken = false;
    await c.queue.send([body()]);
    await waitFor("the recovery", () => poller.failure() === undefined);
    c.stopping.abort();
    await poller.done;
  });

  test("reports why deletes keep failing though receives succeed, and pauses longer and longer", async () => {
    await using c = await consumer({
      queue: () => ({
        delete: async () => {
          throw new Error("DeleteMessageBatch failed: AccessDenied");
        },
      }),
    });
    for (let batch = 0; batch < 30; batch++) await c.queue.send(Array.from({ length: 10 }, () => body()));
    const poller = startPolling(c.deps, 4, c.stopping.signal);
    await waitFor("the reason", () => poller.failure() === "DeleteMessageBatch failed: AccessDenied");
    await Bun.sleep(2_000); // long enough for a hot loop to show
    expect(c.calls.filter((name) => name === "receive").length).toBeLessThan(20);
    expect(c.events()).toEqual(["polling_failed"]);
    c.stopping.abort();
    await poller.done;
  });

  test("one receive loop stays when all return without a full batch in the same moment", async () => {
    let calls = 0;
    const gates: ((messages: never[]) => void)[] = [];
    await using c = await consumer({
      queue: (real) => ({
        receive: async (_, signal) => {
          // The first batch is full and opens a second lane; from then on all wait for a common answer.
          if (++calls === 1) return await real.receive(0, signal);
          const { promise, resolve, reject } = Promise.withResolvers<never[]>();
          signal.addEventListener("abort", () => reject(new Error("stopped")));
          gates.push(resolve);
          return await promise;
        },
      }),
    });
    await c.queue.send(Array.from({ length: 10 }, () => body()));
    const poller = startPolling(c.deps, 2, c.stopping.signal);
    await waitFor("two lanes", () => gates.length === 2);
    for (const answer of gates.splice(0)) answer([]);
    await waitFor("the lane that stays", () => gates.length === 1);
    c.stopping.abort();
    await poller.done;
  });

  test("a queue that throttles everything is asked less and less often, and logged once", async () => {
    const server = Bun.serve({
      hostname: "127.0.0.1",
      port: 0,
      fetch: () =>
        Response.json({ __type: "com.amazonaws.sqs#RequestThrottled", message: "slow down" }, { status: 400 }),
    });
    const pauses: number[] = [];
    let failedAt: number | undefined;
    await using c = await consumer({
      queue: (real) => {
        const throttled = openQueue({ ...real.address, endpoint: server.url.href });
        return {
          receive: async (wait, signal) => {
            if (failedAt !== undefined) pauses.push(performance.now() - failedAt);
            return await throttled.receive(wait, signal).finally(() => {
              failedAt = performance.now();
            });
          },
        };
      },
    });
    const poller = startPolling(c.deps, 8, c.stopping.signal);
    await waitFor("four receives", () => pauses.length >= 3, 20_000);
    // A quarter less than the pauses of the policy. A slow machine makes them longer, never shorter.
    for (const [index, leastMs] of [150, 300, 600].entries()) {
      expect(pauses[index]).toBeGreaterThanOrEqual(leastMs - 1); // a timer may be a fraction of a millisecond early
    }
    expect(c.events()).toEqual(["polling_failed"]);
    expect(poller.failure()).toContain("RequestThrottled");
    c.stopping.abort();
    await poller.done;
    await server.stop(true);
  });

  test("a step of the clock is no stall", async () => {
    await using c = await consumer();
    const poller = startPolling(c.deps, 2, c.stopping.signal);
    try {
      for (const days of [1, -2]) {
        setSystemTime(new Date(Date.now() + days * 86_400_000));
        expect(poller.sinceProgressMs()).toBeWithin(0, 5_000);
        await c.queue.send([body()]);
      }
      await waitFor("both orders", async () => (await c.store.global()).orders === 2);
    } finally {
      setSystemTime();
    }
    c.stopping.abort();
    await poller.done;
  });
});

describe("a store that is not known to be good", () => {
  /** As `consumer()`, with the store switched off before the first check. */
  const startedDuringOutage = () => consumer({ off: true });

  test("a consumer that starts during an outage receives nothing until the first check succeeds", async () => {
    await using c = await startedDuringOutage();
    await c.queue.send([body(), body()]);
    const poller = startPolling(c.deps, 4, c.stopping.signal);
    await waitFor("some checks", () => c.checks() >= 3);
    expect(c.calls).toEqual([]);
    expect(c.events()).toEqual(["store_unavailable"]);
    c.turn("on");
    await waitFor("the orders", async () => (await c.store.global()).orders === 2);
    expect(c.events()).toEqual(["store_unavailable", "store_available"]);
    c.stopping.abort();
    await poller.done;
  });

  test("seven restarts during an outage raise no receive count", async () => {
    const queue = await freshQueue(emulator, {}, 1);
    await queue.send([body(), body()]);
    for (let restart = 0; restart < 7; restart++) {
      await using c = await consumer({ off: true, queue: () => queue });
      const poller = startPolling(c.deps, 4, c.stopping.signal);
      await waitFor("a check", () => c.checks() >= 1);
      c.stopping.abort();
      await poller.done;
    }
    expect(await queue.depth()).toEqual({ visible: 2, inFlight: 0, deadLetter: 0 });
    expect(await takeAll(queue)).toHaveLength(2);
  });

  test("a batch that fails while check() succeeds stops all receives until it is recorded", async () => {
    await using c = await consumer();
    const { record } = c.deps.store;
    let broken = true;
    c.deps.store.record = async (orders) => {
      if (broken && orders.some(({ id }) => id === "odd")) throw new Error("orders:board:d:2019-01-01 holds a string");
      return await record(orders);
    };
    await c.queue.send([body({ order_id: "odd" })]);
    const poller = startPolling(c.deps, 4, c.stopping.signal);
    await waitFor("the failure", () => c.events().includes("store_unavailable"));
    await c.queue.send(Array.from({ length: 5 }, () => body()));
    await waitFor("some attempts", () => c.checks() >= 4);
    expect(c.calls.filter((name) => name === "receive")).toHaveLength(1);
    expect(c.deps.availability.reason()).toBe("orders:board:d:2019-01-01 holds a string");
    expect(c.lines.filter(({ event }) => event === "store_unavailable")).toHaveLength(1);
    broken = false;
    await waitFor("all orders", async () => (await c.store.global()).orders === 6);
    expect(await c.counts()).toMatchObject({ counted: 6, duplicate: 0 });
    c.stopping.abort();
    await poller.done;
  });

  test("a reason that changes is logged again", async () => {
    await using c = await startedDuringOutage();
    const { check } = c.deps.store;
    await waitFor("the first reason", () => c.events().length === 1);
    c.deps.store.check = async () => {
      throw new Error("it is full");
    };
    await waitFor("the second", () => c.deps.availability.reason() === "it is full");
    c.deps.store.check = check;
    expect(c.lines.map(({ event }) => event)).toEqual(["store_unavailable", "store_unavailable"]);
  });
});

test("an order is received once during an outage, not once by each consumer that waits for messages", async () => {
  const queue = await freshQueue(emulator, {}, 3);
  const consumers = await Promise.all(Array.from({ length: 4 }, () => consumer({ queue: () => queue })));
  const pollers = consumers.map(({ deps, stopping }) => startPolling(deps, 1, stopping.signal));
  const receives = () => consumers.flatMap(({ calls }) => calls.filter((name) => name === "receive")).length;
  await waitFor("a receive of each", () => receives() >= 4);
  for (const { turn } of consumers) turn("off");
  await waitFor("each to notice", () => consumers.every(({ deps }) => deps.availability.reason() !== undefined));
  await Bun.sleep(1_200); // the receives in flight return
  const before = receives();
  await queue.send([body()]);
  await Bun.sleep(1_200); // longer than a loop waits between two receives
  expect(await queue.depth()).toEqual({ visible: 1, inFlight: 0, deadLetter: 0 });
  expect(receives()).toBe(before);
  for (const { events } of consumers) expect(events()).toEqual(["store_unavailable"]);
  for (const { turn } of consumers) turn("on");
  await waitFor("the order", async () => Bun.deepEquals(await queue.depth(), NO_MESSAGES));
  for (const { stopping } of consumers) stopping.abort();
  await Promise.all(pollers.map(({ done }) => done));
  for (const each of consumers) await each[Symbol.asyncDispose]();
});
