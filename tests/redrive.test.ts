import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { GetQueueUrlCommand, SendMessageCommand, SetQueueAttributesCommand } from "@aws-sdk/client-sqs";
import { validateOrder } from "../consumer/order.ts";
import { createClient } from "../queue/client.ts";
import type { Message } from "../queue/message.ts";
import { openQueue, type Queue } from "../queue/queue.ts";
import { locateQueue } from "../queue/setup.ts";
import { ENVELOPES } from "../scripts/envelopes.ts";
import { openStore } from "../store/open.ts";
import { body, order } from "./support/orders.ts";
import { AWS, temporaryFolder } from "./support/program.ts";
import { deadLettersOf, freshFifoQueue, freshQueue, releaseAll, startEmulatorProcess } from "./support/queues.ts";
import { freePort } from "./support/redis-server.ts";
import { waitFor } from "./support/wait-for.ts";

// Real processes on a busy machine: bun's five seconds would fail a test that is only slow.
setDefaultTimeout(60_000);

const ROOT = join(import.meta.dir, "..");
const TRACE = { DataType: "String", StringValue: "00-abc" };
const ERRORS = [
  { path: "/order_value", message: "must be a finite number of at least 0" },
  { path: "", message: "is “odd”" },
];

let emulator: Awaited<ReturnType<typeof startEmulatorProcess>>;
const opened: Queue[] = [];
beforeAll(async () => {
  emulator = await startEmulatorProcess();
});
afterAll(async () => {
  for (const queue of opened) queue.close();
  await emulator.stop();
});

function start(args: string[], env: Record<string, string>) {
  const command = [process.execPath, "scripts/redrive.ts", ...args];
  const child = Bun.spawn(command, { cwd: ROOT, env, stdin: "ignore", stdout: "pipe", stderr: "pipe" });
  const ended = Promise.all([child.exited, child.stdout.text(), child.stderr.text()]);
  return { child, ended: ended.then(([exitCode, stdout, stderr]) => ({ exitCode, stdout, stderr })) };
}

const run = (args: string[], env: Record<string, string>) => start(args, env).ended;
const jsonLines = (text: string) => text.split("\n").flatMap((line) => (line ? [JSON.parse(line)] : []));

/** A queue of the test's own, its dead-letter queue, and the environment that names it. */
async function prepare({ endpoint = emulator.endpoint, fresh = freshQueue } = {}) {
  const queue = await fresh(emulator);
  const deadLetters = deadLettersOf(queue);
  opened.push(queue, deadLetters);
  const env = { ...AWS, AWS_ENDPOINT_URL: endpoint, SQS_QUEUE_URL: queue.address.url };
  return { queue, deadLetters, env };
}

/** Sends bodies to the dead-letter queue as the program does, or with "none" as SQS does. */
async function deadLetter(queue: Queue, reason: string, bodies: string[]) {
  const attributes: Message["attributes"] = { traceparent: TRACE };
  const messages = bodies.map((body) => ({ id: "", body, receiptHandle: "", sentAtMs: 0, attributes }));
  for (let at = 0; at < messages.length; at += 10) {
    const batch = messages.slice(at, at + 10);
    if (reason === "none") await deadLettersOf(queue).redrive(batch);
    else await queue.deadLetter(batch.map((message) => ({ message, reason, errors: ERRORS })));
  }
}

const ofText = (StringValue: string) => ({ DataType: "String", StringValue });

/** Sends a message to the dead-letter queue as another program does. */
async function sendForeign({ address }: Queue, MessageBody: string, MessageAttributes: Message["attributes"]) {
  await createClient(address).send(new SendMessageCommand({ QueueUrl: address.url, MessageBody, MessageAttributes }));
}

const bodies = (count: number, word = "body") => Array.from({ length: count }, (_, index) => `${word} ${index}`);

/** Receives and deletes what is visible now. Eight loops: some of the tests have thousands of messages. */
async function take(queue: Queue): Promise<Message[]> {
  const loop = async () => {
    const all: Message[] = [];
    for (;;) {
      const messages = await queue.receive(0, new AbortController().signal);
      if (messages.length === 0) return all;
      all.push(...messages);
      await queue.delete(messages);
    }
  };
  return (await Promise.all(Array.from({ length: 8 }, loop))).flat();
}

const takeBodies = async (queue: Queue) => (await take(queue)).map((message) => message.body).sort();

type OnRequest = (
  action: string,
  body: string,
  forward: (body: string) => Promise<Response>,
) => Response | undefined | Promise<Response | undefined>;

/** A proxy of the emulator; `onRequest` may return another response, or forward the request itself. */
function startProxy(onRequest: OnRequest) {
  return Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    async fetch(request) {
      const text = await request.text();
      const forward = (body: string) => fetch(emulator.endpoint, { method: "POST", headers: request.headers, body });
      const action = request.headers.get("x-amz-target")?.split(".")[1] ?? "";
      return (await onRequest(action, text, forward)) ?? (await forward(text));
    },
  });
}

describe.concurrent("list", () => {
  test("shows reason, errors and the start of each body, counts the reasons, and leaves everything in place", async () => {
    const { queue, deadLetters, env } = await prepare();
    await deadLetter(queue, "invalid_order", ["short", "x".repeat(1000)]);
    await deadLetter(queue, "none", ["{\r\n  two: lines \u009b31m"]);
    const { exitCode, stdout, stderr } = await run([], env);
    expect([exitCode, stderr]).toEqual([0, ""]);
    const head = String.raw`20\d\d-\S+Z  [0-9a-f-]{36}`;
    const errors = "  /order_value: must be a finite number of at least 0\n  /: is “odd”\n";
    expect(stdout).toMatch(new RegExp(`^${head}  invalid_order\n${errors}  short\n${head}  invalid_order\n`));
    expect(stdout).toContain(`\n  ${"x".repeat(160)}…\n`);
    expect(stdout).toMatch(new RegExp(`\n${head}  none\n  { two: lines \\\\u009b31m\n`));
    expect(stdout).toEndWith("\n3 messages: 2 invalid_order, 1 none\n");
    expect(await deadLetters.depth()).toMatchObject({ visible: 3, inFlight: 0 });
    expect(await takeBodies(deadLetters)).toEqual(["short", "x".repeat(1000), "{\r\n  two: lines \u009b31m"]);
    expect(await takeBodies(queue)).toEqual([]);
  });

  test("shows each of many messages once, and all are visible again", async () => {
    const { queue, deadLetters, env } = await prepare();
    await deadLetter(queue, "invalid_json", bodies(207));
    const { stdout } = await run(["list", "--json"], env);
    const shown = jsonLines(stdout);
    const reasons = { invalid_json: 207 };
    expect(shown.pop()).toEqual({ received: 207, matched: 207, reasons, moved: 0, failed: 0, remaining: 207 });
    expect(shown.map((line) => line.body).sort()).toEqual(bodies(207).sort());
    expect(shown[0]).toEqual({
      message_id: expect.any(String),
      reason: "invalid_json",
      errors: ERRORS,
      body: expect.any(String),
      sent_at: expect.stringMatching(/^20.*Z$/),
    });
    expect(await takeBodies(deadLetters)).toEqual(bodies(207).sort());
  });

  test("--reason and --limit restrict the messages shown", async () => {
    const { queue, deadLetters, env } = await prepare();
    for (const reason of ["invalid_json", "invalid_order", "value_mismatch", "none"])
      await deadLetter(queue, reason, bodies(15, reason));
    const both = jsonLines((await run(["--json", "--reason", "none", "--reason=value_mismatch"], env)).stdout);
    expect(both.pop()).toMatchObject({ received: 60, matched: 30, reasons: { none: 15, value_mismatch: 15 } });
    expect(new Set(both.map(({ reason }) => reason))).toEqual(new Set(["none", "value_mismatch"]));
    const few = jsonLines((await run(["--json", "--reason", "none", "--limit", "12"], env)).stdout);
    expect(few.pop()).toMatchObject({ matched: 12, reasons: { none: 12 } });
    expect(few).toHaveLength(12);
    expect((await take(deadLetters)).length).toBe(60);
  });

  test("a message that SQS delivers twice is shown once", async () => {
    let receives = 0;
    const first = Promise.withResolvers<string>();
    await using proxy = startProxy(async (action, text, forward) => {
      if (action !== "ReceiveMessage" || ++receives > 2) return undefined;
      // Two receives get the first response.
      if (receives === 1) forward(text).then(async (response) => first.resolve(await response.text()));
      return new Response(await first.promise, { headers: { "content-type": "application/x-amz-json-1.0" } });
    });
    const { queue, env } = await prepare({ endpoint: proxy.url.href });
    await deadLetter(queue, "invalid_json", bodies(3));
    const { exitCode, stdout } = await run(["--json"], env);
    expect(receives).toBeGreaterThan(2);
    expect([exitCode, jsonLines(stdout).length]).toEqual([0, 4]);
  });

  test("reports messages that another consumer has in flight", async () => {
    const { queue, deadLetters, env } = await prepare();
    await deadLetter(queue, "invalid_json", bodies(2));
    await deadLetters.receive(0, new AbortController().signal);
    const { exitCode, stdout, stderr } = await run([], env);
    expect([exitCode, stdout]).toEqual([0, "0 messages\n"]);
    expect(stderr).toBe("Not received: about 2 messages that another consumer has in flight\n");
  });

  test("`| head` ends it early, and everything is visible again", async () => {
    let receives = 0;
    await using proxy = startProxy((action) => {
      if (action === "ReceiveMessage") receives++;
      return undefined;
    });
    const { queue, deadLetters, env } = await prepare({ endpoint: proxy.url.href });
    await deadLetter(queue, "invalid_json", bodies(500, "x".repeat(2000)));
    const command = `"${process.execPath}" scripts/redrive.ts --json | head -n 1`;
    const shell = Bun.spawn(["sh", "-c", command], {
      cwd: ROOT,
      env: { ...env, PATH: process.env.PATH ?? "" },
      stdout: "pipe",
    });
    expect(jsonLines(await shell.stdout.text())).toHaveLength(1);
    await shell.exited;
    await waitFor("the messages", async () => (await deadLetters.depth()).visible === 500);
    expect(receives).toBeLessThan(50);
  });
});

describe.concurrent("back", () => {
  test("moves exactly those asked for, bodies and the sender's attributes unchanged, reason and errors gone", async () => {
    const { queue, deadLetters, env } = await prepare();
    const fields = [{ order_value: 99 }, { shipping_address: "😀 é\n\t“x”" }, { extra: { deep: [1] } }];
    const orders = fields.map(body);
    await deadLetter(queue, "value_mismatch", orders);
    await deadLetter(queue, "none", ["received too often"]);
    await deadLetter(queue, "invalid_json", ["{"]);
    const { exitCode, stdout, stderr } = await run(["back", "--reason", "value_mismatch", "--reason", "none"], env);
    expect([exitCode, stderr]).toEqual([0, expect.stringMatching(/^5 of 5 received messages \(100 %\), [\d,]+\/s\n$/)]);
    expect(stdout).toBe(
      `4 messages: 3 value_mismatch, 1 none\nMoved 4 messages to ${queue.address.url}. Failed: 0. Left in the dead-letter queue: about 1\n`,
    );
    const moved = await take(queue);
    expect(moved.map((message) => message.body).sort()).toEqual([...orders, "received too often"].sort());
    const OriginalMessageId = { DataType: "String", StringValue: expect.stringMatching(/^[0-9a-f-]{36}$/) };
    for (const { attributes } of moved) expect(attributes).toEqual({ traceparent: TRACE, OriginalMessageId });
    const result = moved.map((message) => validateOrder(message.body, "correct").outcome);
    expect(result.sort()).toEqual(["corrected", "counted", "counted", "rejected"]);
    const kept = await take(deadLetters);
    expect(kept.map((message) => message.body)).toEqual(["{"]);
    expect(kept[0]?.attributes).toMatchObject({ RejectReason: { StringValue: "invalid_json" } });
  });

  test("a foreign RejectErrors attribute is shown as unreadable, and everything is moved", async () => {
    const { queue, deadLetters, env } = await prepare();
    await deadLetter(queue, "invalid_json", ["ours"]);
    const foreign = ["oops", '{"path":"/"}', '{"a":1}', '["text"]', '"text"', "[null]", "[1]", "null", "5"];
    for (const text of foreign) await sendForeign(deadLetters, text, { RejectErrors: ofText(text) });
    await sendForeign(deadLetters, "bytes", { RejectErrors: { DataType: "Binary", BinaryValue: new Uint8Array([0]) } });
    await sendForeign(deadLetters, "number", { RejectErrors: { DataType: "Number", StringValue: "7" } });
    const { stdout } = await run(["back", "--dry-run"], env);
    for (const text of foreign) expect(stdout).toContain(`  none\n  RejectErrors: unreadable: ${text}\n  ${text}\n`);
    expect(stdout).toContain("  none\n  RejectErrors: unreadable: Binary\n  bytes\n");
    expect(stdout).toContain("  none\n  RejectErrors: unreadable: 7\n  number\n");
    const { exitCode } = await run(["back"], env);
    expect([exitCode, await takeBodies(queue)]).toEqual([0, [...foreign, "ours", "bytes", "number"].sort()]);
  });

  test("another program's reason is listed and can be selected, as it is and as it is shown", async () => {
    const { queue, deadLetters, env } = await prepare();
    await deadLetter(queue, "invalid_json", ["ours"]);
    const reasons = [
      "constructor",
      "__proto__",
      "too high, too low",
      "of\n\ttwo lines\u009b2J\u202e",
      "7",
      "x".repeat(300),
    ];
    for (const reason of reasons) await sendForeign(deadLetters, `of ${reason}`, { RejectReason: ofText(reason) });
    await sendForeign(deadLetters, "bytes", { RejectReason: { DataType: "Binary", BinaryValue: new Uint8Array([0]) } });
    const { stdout } = await run([], env);
    const two = "of two lines\\u009b2J\\u202e";
    for (const shown of ["constructor", "__proto__", "too high, too low", two, "7", `${"x".repeat(160)}…`, "none"])
      expect([stdout.includes(`Z  `), stdout.includes(`  ${shown}\n`), stdout.includes(`1 ${shown}`)]).toEqual([
        true,
        true,
        true,
      ]);
    const { reasons: counted } = jsonLines((await run(["--json"], env)).stdout).pop();
    expect(counted).toEqual(Object.fromEntries([...reasons, "invalid_json", "none"].map((reason) => [reason, 1])));
    for (const wanted of [...reasons, "of two lines\u009b2J\u202e", `${"x".repeat(160)}…`])
      expect(jsonLines((await run(["--json", "--reason", wanted], env)).stdout).pop()).toMatchObject({ matched: 1 });
    const args = ["back", "--json", "--reason", "constructor,7", "--reason", "too high, too low"];
    expect(jsonLines((await run(args, env)).stdout)).toMatchObject([{ matched: 3, moved: 3, remaining: 5 }]);
    expect(await takeBodies(queue)).toEqual(["of 7", "of constructor", "of too high, too low"]);
  });

  test("--order-id selects by the order_id of the body, together with --reason", async () => {
    const { queue, deadLetters, env } = await prepare();
    const ids = ["a", "a,b", "b", 12, "undefined"].map((order_id) => JSON.stringify({ order_id }));
    const without = ["{", "null", "7", '"a"', '["a"]', '{"order_id":{"a":1}}', "{}"];
    await deadLetter(queue, "invalid_order", [...ids, ...without]);
    await deadLetter(queue, "none", [JSON.stringify({ order_id: "a" })]);
    const matched = async (...args: string[]) =>
      jsonLines((await run(["--json", ...args], env)).stdout).flatMap(({ body }) =>
        body ? JSON.parse(body).order_id : [],
      );
    expect(await matched("--order-id", "a")).toEqual(["a", "a"]);
    expect((await matched("--order-id", "a,b")).map(String).sort()).toEqual(["a", "a", "a,b", "b"]);
    expect(await matched("--order-id", "12", "--order-id=b")).toEqual(["b", 12]);
    expect(await matched("--order-id", "undefined")).toEqual(["undefined"]);
    expect(await matched("--order-id", "[object Object]")).toEqual([]);
    const { stdout } = await run(["back", "--order-id", "a", "--reason", "none"], env);
    expect(stdout).toStartWith("1 message: 1 none\nMoved 1 message to ");
    expect([await takeBodies(queue), (await take(deadLetters)).length]).toEqual([['{"order_id":"a"}'], 12]);
  });

  test("--order-id selects orders in envelopes", async () => {
    const { queue, env } = await prepare();
    const wrapped = Object.values(ENVELOPES).map((wrap, index) => wrap('{"order_id":"a"}', index, 0));
    await deadLetter(queue, "invalid_order", [...wrapped, ENVELOPES.sns("no JSON", 1, 0), ENVELOPES.sns("7", 1, 0)]);
    const found = jsonLines((await run(["--json", "--order-id", "a"], env)).stdout).flatMap(({ body }) => body ?? []);
    expect(found.sort()).toEqual(wrapped.sort());
  });

  test("--order-id lists the state of the orders in the store, where there is one that can be read", async () => {
    const { queue, env } = await prepare();
    await deadLetter(queue, "invalid_order", ['{"order_id":"a"}']);
    const DATA_DIR = temporaryFolder();
    const list = async (more: Record<string, string>) =>
      (await run(["--order-id", "a", "--order-id", "c"], { ...env, ...more })).stdout
        .split("\n")
        .slice(0, -1)
        .filter((line) => !/^ |Z {2}/.test(line));
    expect(await list({ DATA_DIR })).toEqual(["1 message: 1 invalid_order"]);
    expect(existsSync(join(DATA_DIR, "orders.db"))).toBeFalse();
    const store = await openStore({ kind: "sqlite", path: join(DATA_DIR, "orders.db") });
    await store.record([order({ id: "c" })]);
    const latest = [{ outcome: "rejected", orderId: "a", atMs: Date.now(), messageId: "m" }] as const;
    await store.addHistory([{ outcome: "rejected", orderId: "a", count: 1, latest }]);
    await store.close();
    expect(await list({ DATA_DIR })).toEqual([
      "1 message: 1 invalid_order",
      "State of order a: rejected",
      "State of order c: counted",
    ]);
    const [, ofA] = await list({ REDIS_URL: `redis://127.0.0.1:${freePort()}` });
    expect(ofA).toStartWith("The state of the order is not known: Cannot reach Redis");
  });

  test("message_id is that of the first delivery, however often the message is moved", async () => {
    const { queue, env } = await prepare();
    await queue.send(["{"]);
    const ids: string[] = [];
    for (let rejections = 0; rejections < 3; rejections++) {
      const [message] = await queue.receive(0, new AbortController().signal);
      if (!message) throw new Error("nothing received");
      ids.push(message.id);
      await queue.deadLetter([{ message, reason: "invalid_json", errors: ERRORS }]);
      await queue.delete([message]);
      const [shown] = jsonLines((await run(["--json"], env)).stdout);
      expect(shown.message_id).toBe(ids[0]);
      expect((await run(["back"], env)).exitCode).toBe(0);
    }
    expect(new Set(ids).size).toBe(3);
  });

  test("--limit moves that many and keeps the others, and the progress has no more", async () => {
    const { queue, deadLetters, env } = await prepare();
    await deadLetter(queue, "invalid_json", bodies(205));
    const { stdout, stderr } = await run(["back", "--limit", "93", "--json"], env);
    expect(JSON.parse(stdout)).toMatchObject({ matched: 93, moved: 93, failed: 0, remaining: 112 });
    expect(stderr).toMatch(/^([\d]+ of 93 messages \(\d+ %\), [\d,]+\/s\n)+$/);
    const [moved, kept] = [await takeBodies(queue), await takeBodies(deadLetters)];
    expect([moved.length, kept.length]).toEqual([93, 112]);
    expect([...moved, ...kept].sort()).toEqual(bodies(205).sort());
  });

  test("--dry-run shows what would move and changes nothing", async () => {
    const { queue, deadLetters, env } = await prepare();
    await deadLetter(queue, "invalid_json", bodies(4));
    await deadLetter(queue, "none", ["another"]);
    const { exitCode, stdout } = await run(["back", "--dry-run", "--reason", "invalid_json"], env);
    expect(exitCode).toBe(0);
    for (const text of bodies(4)) expect(stdout).toContain(`\n  ${text}\n`);
    expect(stdout).toEndWith(`\n4 messages: 4 invalid_json\nWould move 4 messages to ${queue.address.url}\n`);
    expect(await takeBodies(queue)).toEqual([]);
    expect(await takeBodies(deadLetters)).toEqual([...bodies(4), "another"].sort());
  });

  test("binary attributes survive, and ten messages too large for one request", async () => {
    const { queue, deadLetters, env } = await prepare();
    const binary = { DataType: "Binary", BinaryValue: new Uint8Array([0, 255, 7]) };
    const attributes = { binary, TheirNumber: { DataType: "Number.int", StringValue: "7" } };
    const large = Array.from({ length: 10 }, (_, index) => `${index}${"x".repeat(200_000)}`);
    for (const text of large) {
      const message = { id: "", body: text, receiptHandle: "", sentAtMs: 0, attributes };
      await queue.deadLetter([{ message, reason: "invalid_json", errors: [] }]);
    }
    expect((await run(["back"], env)).exitCode).toBe(0);
    const moved = await take(queue);
    expect(moved.map((message) => message.body).sort()).toEqual(large);
    for (const message of moved) {
      expect(Object.keys(message.attributes).sort()).toEqual(["OriginalMessageId", "TheirNumber", "binary"]);
      expect([...(message.attributes.binary?.BinaryValue ?? [])]).toEqual([0, 255, 7]);
    }
    expect(await take(deadLetters)).toEqual([]);
  });

  test("messages that are rejected again meanwhile stay, so that the run ends", async () => {
    await using proxy = startProxy(async (action, text, forward) => {
      if (action !== "SendMessageBatch") return undefined;
      // A program that rejects every message at once.
      const response = await forward(text);
      const sent = (JSON.parse(text).Entries as { MessageBody: string }[]).map((entry) => entry.MessageBody);
      await deadLetter(queue, "invalid_json", sent);
      return response;
    });
    const { queue, deadLetters, env } = await prepare({ endpoint: proxy.url.href });
    await deadLetter(queue, "invalid_json", bodies(60));
    const { exitCode, stdout } = await run(["back", "--json"], env);
    expect([exitCode, JSON.parse(stdout).moved]).toEqual([0, 60]);
    expect((await take(queue)).length).toBe(60);
    expect(await takeBodies(deadLetters)).toEqual(bodies(60).sort());
  });

  test("messages that the queue refuses stay, and the others move", async () => {
    const isBad = (text: string) => text.endsWith("7");
    await using proxy = startProxy(async (action, text, forward) => {
      if (action !== "SendMessageBatch") return undefined;
      type Batch = { QueueUrl: string; Entries: { Id: string; MessageBody: string }[] };
      const { QueueUrl, Entries } = JSON.parse(text) as Batch;
      const good = Entries.filter((entry) => !isBad(entry.MessageBody));
      const response = await forward(JSON.stringify({ QueueUrl, Entries: good }));
      const { Successful } = (await response.json()) as { Successful: unknown[] };
      const bad = Entries.filter((entry) => isBad(entry.MessageBody));
      const Failed = bad.map(({ Id }) => ({ Id, SenderFault: false, Code: "InternalError", Message: "try again" }));
      return Response.json({ Successful, Failed });
    });
    const { queue, deadLetters, env } = await prepare({ endpoint: proxy.url.href });
    await deadLetter(queue, "invalid_json", bodies(100));
    const { exitCode, stdout, stderr } = await run(["back", "--json"], env);
    expect(exitCode).toBe(1);
    expect(JSON.parse(stdout)).toMatchObject({ received: 100, matched: 100, moved: 90, failed: 10, remaining: 10 });
    expect(stderr).toEndWith("Cannot move a message: InternalError: try again\n");
    const [moved, kept] = [await takeBodies(queue), await takeBodies(deadLetters)];
    expect([moved.some(isBad), kept.every(isBad)]).toEqual([false, true]);
    expect([...moved, ...kept].sort()).toEqual(bodies(100).sort());
  });

  test("a message that cannot be deleted is in both places, and counts as failed", async () => {
    await using proxy = startProxy((action, text) => {
      if (action !== "DeleteMessageBatch") return undefined;
      const Failed = [{ Id: "1", SenderFault: false, Code: "InternalError", Message: "try again" }];
      const Entries = JSON.parse(text).Entries as { Id: string }[];
      return Response.json({ Successful: Entries.filter(({ Id }) => Id !== "1").map(({ Id }) => ({ Id })), Failed });
    });
    const { queue, env } = await prepare({ endpoint: proxy.url.href });
    await deadLetter(queue, "invalid_json", bodies(3));
    const { exitCode, stdout } = await run(["back", "--json"], env);
    expect([exitCode, JSON.parse(stdout).moved, JSON.parse(stdout).failed]).toEqual([1, 2, 1]);
    expect(await takeBodies(queue)).toEqual(bodies(3));
  });

  test("a queue that refuses everything ends the run soon, and every message is visible again", async () => {
    let sends = 0;
    await using proxy = startProxy((action) => {
      if (action !== "SendMessageBatch") return undefined;
      sends++;
      return Response.json({ __type: "com.amazonaws.sqs#AccessDeniedException", message: "not you" }, { status: 400 });
    });
    const { queue, deadLetters, env } = await prepare({ endpoint: proxy.url.href });
    await deadLetter(queue, "invalid_json", bodies(300));
    const { exitCode, stderr } = await run(["back"], env);
    expect(exitCode).toBe(1);
    expect(stderr).toEndWith("AccessDeniedException: not you\n");
    expect(sends).toBeLessThan(20);
    expect(await takeBodies(deadLetters)).toEqual(bodies(300).sort());
  });

  test("Ctrl-C finishes the batches in flight and releases the rest", async () => {
    let sends = 0;
    await using proxy = startProxy((action) => {
      if (action === "SendMessageBatch" && ++sends === 20) redrive.child.kill("SIGINT");
      return undefined;
    });
    const { queue, deadLetters, env } = await prepare({ endpoint: proxy.url.href });
    await deadLetter(queue, "invalid_json", bodies(600));
    const redrive = start(["back", "--json"], env);
    const { exitCode, stdout } = await redrive.ended;
    const [moved, kept] = [await takeBodies(queue), await takeBodies(deadLetters)];
    expect(exitCode).toBe(130);
    expect(JSON.parse(stdout)).toMatchObject({ moved: moved.length, failed: 0 });
    expect(moved.length).toBeWithin(200, 500);
    expect([...moved, ...kept].sort()).toEqual(bodies(600).sort());
  });
});

describe.concurrent("file", () => {
  test("appends one object a line, on disk before the message is deleted", async () => {
    const path = join(temporaryFolder(), "dead.jsonl");
    const missing: string[] = [];
    let deletes = 0;
    await using proxy = startProxy(async (action, text) => {
      const { QueueUrl, Entries } = JSON.parse(text) as { QueueUrl: string; Entries: unknown[] };
      if (action !== "DeleteMessageBatch" || QueueUrl !== deadLetters.address.url) return undefined;
      deletes += Entries.length;
      const expected = deletes;
      const lines = (await Bun.file(path).text()).split("\n").length - 1;
      if (lines < expected) missing.push(text);
      return undefined;
    });
    const { queue, deadLetters, env } = await prepare({ endpoint: proxy.url.href });
    await deadLetter(queue, "invalid_order", bodies(45, "a\n“b”"));
    await deadLetter(queue, "none", ["kept"]);
    const { exitCode, stdout } = await run(["file", path, "--reason", "invalid_order"], env);
    expect([exitCode, missing]).toEqual([0, []]);
    expect(stdout).toBe(
      `45 messages: 45 invalid_order\nMoved 45 messages to ${path}. Failed: 0. Left in the dead-letter queue: about 1\n`,
    );
    await run(["file", path], env);
    const lines = jsonLines(await Bun.file(path).text());
    expect(lines.map((line) => line.body).sort()).toEqual([...bodies(45, "a\n“b”"), "kept"].sort());
    expect(lines[0]).toEqual({
      message_id: expect.any(String),
      reason: "invalid_order",
      errors: ERRORS,
      body: expect.any(String),
      sent_at: expect.any(String),
    });
    expect(lines.at(-1)).toMatchObject({ reason: "none", errors: [], body: "kept" });
    expect([await take(queue), await take(deadLetters)]).toEqual([[], []]);
  });

  test("ends half a line that a killed run has left", async () => {
    const path = join(temporaryFolder(), "dead.jsonl");
    await Bun.write(path, '{"message_id":"1"}\n{"messa');
    const { queue, env } = await prepare();
    await deadLetter(queue, "none", ["whole"]);
    await run(["file", path], env);
    const lines = (await Bun.file(path).text()).split("\n");
    expect([lines.length, lines[1], JSON.parse(lines[2] ?? "").body]).toEqual([4, '{"messa', "whole"]);
  });

  test.each([
    ["a full disk", "/dev/full", "ENOSPC"],
    // A pipe accepts writes but cannot be synced.
    ["an fsync that fails", join(temporaryFolder(), "pipe"), "EINVAL"],
  ])("keeps every message on %s", async (_, path, reason) => {
    if (!existsSync(path)) Bun.spawnSync(["mkfifo", path]);
    const { queue, deadLetters, env } = await prepare();
    await deadLetter(queue, "invalid_json", bodies(30));
    const { exitCode, stdout, stderr } = await run(["file", path], env);
    expect([exitCode, stderr]).toEqual([1, expect.stringMatching(new RegExp(`^${reason}: .*\n$`))]);
    expect(stdout).toEndWith(
      `30 messages: 30 invalid_json\nMoved 0 messages to ${path}. Failed: 30. Left in the dead-letter queue: about 30\n`,
    );
    expect(await takeBodies(deadLetters)).toEqual(bodies(30).sort());
  });

  test("a path that cannot be opened is one sentence, and --dry-run makes no file", async () => {
    const dir = temporaryFolder();
    const { queue, deadLetters, env } = await prepare();
    await deadLetter(queue, "none", ["a"]);
    const { exitCode, stderr } = await run(["file", dir], env);
    expect([exitCode, stderr]).toEqual([1, expect.stringMatching(/^EISDIR: .*\n$/)]);
    expect((await run(["file", join(dir, "x"), "--dry-run"], env)).stdout).toEndWith(
      `Would move 1 message to ${dir}/x\n`,
    );
    expect(existsSync(join(dir, "x"))).toBe(false);
    expect(await takeBodies(deadLetters)).toEqual(["a"]);
  });
});

describe.concurrent("of a FIFO queue", () => {
  /** 25 messages of one group and one of another in the dead-letter queue, rejected by the program. */
  async function prepareGroups() {
    const prepared = await prepare({ fresh: freshFifoQueue });
    const { queue } = prepared;
    for (const [at, text] of [...bodies(25), "other"].entries()) await queue.send([text], [at < 25 ? "g" : "h"]);
    for (let messages = await receive(queue); messages.length > 0; messages = await receive(queue)) {
      const reasonOf = ({ body }: Message) => (body.endsWith("0") ? "value_mismatch" : "invalid_json");
      await queue.deadLetter(messages.map((message) => ({ message, reason: reasonOf(message), errors: ERRORS })));
      await queue.delete(messages);
    }
    return prepared;
  }

  const receive = (queue: Queue) => queue.receive(0, new AbortController().signal);

  test("back moves whole groups, however long", async () => {
    const { queue, deadLetters, env } = await prepareGroups();
    const { exitCode, stdout } = await run(["back", "--json"], env);
    expect([exitCode, JSON.parse(stdout)]).toMatchObject([0, { received: 26, moved: 26, failed: 0, remaining: 0 }]);
    const moved = await take(queue);
    expect(moved.map(({ body, groupId }) => `${groupId} ${body}`).sort()).toEqual(
      [...bodies(25).map((text) => `g ${text}`), "h other"].sort(),
    );
    for (const { attributes } of moved) expect(Object.keys(attributes)).toEqual(["OriginalMessageId"]);
    expect(await deadLetters.depth()).toMatchObject({ visible: 0, inFlight: 0 });
  });

  test("list and --reason report messages that SQS does not return, and leave the group as it was", async () => {
    const { queue, deadLetters, env } = await prepareGroups();
    const reason = "SQS returns them only when the messages before them are deleted";
    const notReceived = `Not received: about 15 messages in the same groups. ${reason}\n`;
    const { exitCode, stdout, stderr } = await run(["--json"], env);
    expect([exitCode, stderr]).toEqual([1, notReceived]);
    expect(jsonLines(stdout).pop()).toMatchObject({ received: 11, matched: 11 });
    const chosen = await run(["back", "--reason", "value_mismatch", "--json"], env);
    expect([chosen.exitCode, chosen.stderr]).toEqual([1, expect.stringContaining(notReceived)]);
    expect(JSON.parse(chosen.stdout)).toMatchObject({ received: 11, moved: 1, remaining: 25 });
    expect(await takeBodies(queue)).toEqual(["body 0"]);
    const limited = await run(["--limit", "3", "--json"], env);
    expect([limited.exitCode, limited.stderr]).toEqual([0, ""]);
    expect((await take(deadLetters)).length).toBe(25);
  });
});

describe("kill -9 while 2,000 messages move", () => {
  const original = bodies(2000).sort();

  /** Kills five runs after some of the messages have moved. The sixth run finishes. */
  async function moveWithKills(args: string[], queue: Queue, deadLetters: Queue, env: Record<string, string>) {
    for (let kills = 0; kills < 5; kills++) {
      const left = async () => {
        const { visible, inFlight } = await deadLetters.depth();
        return visible + inFlight;
      };
      // A part of the rest, not a fixed number: a fast machine would finish before the last kill.
      const target = Math.floor((await left()) * (0.7 + Math.random() * 0.2));
      const { child } = start(args, env);
      await waitFor("part of the messages", async () => (await left()) <= target, 30_000);
      await Bun.sleep(Math.random() * 20);
      child.kill("SIGKILL");
      await child.exited;
      await releaseAll(deadLetters);
    }
    expect((await run(args, env)).exitCode).toBe(0);
    expect((await take(deadLetters)).length).toBe(0);
    return await takeBodies(queue);
  }

  test("back loses none", async () => {
    const { queue, deadLetters, env } = await prepare();
    await deadLetter(queue, "invalid_json", bodies(2000));
    const moved = await moveWithKills(["back"], queue, deadLetters, env);
    expect([...new Set(moved)].sort()).toEqual(original);
    // One more copy for each batch that was copied and not yet deleted at a kill.
    expect(moved.length).toBeLessThan(2000 + 5 * 80 + 1);
  });

  test("file loses none", async () => {
    const path = join(temporaryFolder(), "dead.jsonl");
    const { queue, deadLetters, env } = await prepare();
    await deadLetter(queue, "invalid_json", bodies(2000));
    expect(await moveWithKills(["file", path], queue, deadLetters, env)).toEqual([]);
    const lines = (await Bun.file(path).text()).split("\n").filter((line) => line.endsWith("}"));
    expect([...new Set(lines.map((line) => JSON.parse(line).body))].sort()).toEqual(original);
  });
});

describe.concurrent("the queue", () => {
  test("is the embedded one where none is named", async () => {
    const address = await locateQueue({ name: "orders-queue", endpoint: emulator.endpoint, embedded: true });
    const queue = openQueue(address);
    opened.push(queue);
    await deadLetter(queue, "invalid_json", ["a"]);
    const env = { EMBEDDED_QUEUE_PORT: new URL(emulator.endpoint).port };
    expect((await run(["back"], env)).exitCode).toBe(0);
    expect(await takeBodies(queue)).toEqual(["a"]);
  });

  test("is found by its name, and never created", async () => {
    const { queue, env } = await prepare();
    const { SQS_QUEUE_URL: _, ...unnamed } = env;
    await deadLetter(queue, "none", ["a"]);
    const name = queue.address.url.split("/").at(-1) ?? "";
    expect((await run([], { ...unnamed, SQS_QUEUE_NAME: name })).stdout).toEndWith("1 message: 1 none\n");
    const { exitCode, stdout, stderr } = await run([], { ...unnamed, SQS_QUEUE_NAME: "missing" });
    expect([exitCode, stdout]).toEqual([1, ""]);
    expect(stderr).toMatch(/^Cannot find the queue missing: QueueDoesNotExist: .*\n$/);
    const client = createClient(queue.address);
    await expect(client.send(new GetQueueUrlCommand({ QueueName: "missing" }))).rejects.toThrow("does not exist");
  });

  test("without a dead-letter queue is one sentence", async () => {
    const { queue, env } = await prepare();
    const Attributes = { RedrivePolicy: "" };
    await createClient(queue.address).send(new SetQueueAttributesCommand({ QueueUrl: queue.address.url, Attributes }));
    const expected = `The queue ${queue.address.url} has no dead-letter queue\n`;
    expect(await run([], env)).toEqual({ exitCode: 1, stdout: "", stderr: expected });
  });
});
