import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { GetQueueUrlCommand, SetQueueAttributesCommand } from "@aws-sdk/client-sqs";
import { judge } from "../consumer/order.ts";
import { createClient } from "../queue/client.ts";
import type { Emulator } from "../queue/emulator.ts";
import { type Message, openQueue, type Queue } from "../queue/queue.ts";
import { locateQueue } from "../queue/setup.ts";
import { body } from "./support/orders.ts";
import { temporaryFolder } from "./support/program.ts";
import {
  deadLettersOf,
  freshFifoQueue,
  freshQueue,
  releaseAll,
  startFastEmulator,
  startTestEmulator,
} from "./support/queues.ts";
import { freePort } from "./support/redis-server.ts";
import { waitFor } from "./support/wait-for.ts";

// Real processes on a busy machine: bun's five seconds would fail a test that is only slow.
setDefaultTimeout(60_000);

const ROOT = join(import.meta.dir, "..");
const AWS = { AWS_REGION: "us-east-1", AWS_ACCESS_KEY_ID: "test", AWS_SECRET_ACCESS_KEY: "test" };
const TRACE = { DataType: "String", StringValue: "00-abc" };
const ERRORS = [
  { path: "/order_value", message: "must be a finite number of at least 0" },
  { path: "", message: "is “odd”" },
];

let emulator: Emulator;
const opened: Queue[] = [];
beforeAll(async () => {
  emulator = await startTestEmulator();
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
async function prepare({ endpoint = "", from = emulator, fresh = freshQueue } = {}) {
  const queue = await fresh(from);
  const deadLetters = deadLettersOf(queue);
  opened.push(queue, deadLetters);
  const env = { ...AWS, AWS_ENDPOINT_URL: endpoint || from.endpoint, SQS_QUEUE_URL: queue.address.url };
  return { queue, deadLetters, env };
}

/** Puts bodies in the dead-letter queue as the program does, or with "none" as SQS itself does. */
async function bury(queue: Queue, reason: string, bodies: string[]) {
  const attributes: Message["attributes"] = { traceparent: TRACE };
  const messages = bodies.map((body) => ({ id: "", body, receiptHandle: "", sentAtMs: 0, attributes }));
  for (let at = 0; at < messages.length; at += 10) {
    const batch = messages.slice(at, at + 10);
    if (reason === "none") await openQueue({ ...queue.address, url: queue.address.deadLetterUrl ?? "" }).redrive(batch);
    else await queue.deadLetter(batch.map((message) => ({ message, reason, errors: ERRORS })));
  }
}

const bodies = (count: number, word = "body") => Array.from({ length: count }, (_, index) => `${word} ${index}`);

/** Takes what is visible now: eight receives at a time, since thousands are in some of the tests. */
async function take(queue: Queue): Promise<Message[]> {
  const lane = async () => {
    const all: Message[] = [];
    for (;;) {
      const messages = await queue.receive(0, new AbortController().signal);
      if (messages.length === 0) return all;
      all.push(...messages);
      await queue.delete(messages);
    }
  };
  return (await Promise.all(Array.from({ length: 8 }, lane))).flat();
}

const takeBodies = async (queue: Queue) => (await take(queue)).map((message) => message.body).sort();

type Answer = Response | undefined;

/** Stands before the emulator; `onRequest` may answer in its place, or see the answer by forwarding itself. */
function startProxy(
  onRequest: (action: string, body: string, forward: (body: string) => Promise<Response>) => Answer | Promise<Answer>,
) {
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

describe("list", () => {
  test("shows reason, errors and the start of each body, counts the reasons, and leaves everything in place", async () => {
    const { queue, deadLetters, env } = await prepare();
    await bury(queue, "invalid_order", ["short", "x".repeat(1000)]);
    await bury(queue, "none", ["two\nlines \u009b31m"]);
    const { exitCode, stdout, stderr } = await run([], env);
    expect([exitCode, stderr]).toEqual([0, ""]);
    const head = String.raw`20\d\d-\S+Z  [0-9a-f-]{36}`;
    const errors = "  /order_value: must be a finite number of at least 0\n  /: is “odd”\n";
    expect(stdout).toMatch(new RegExp(`^${head}  invalid_order\n${errors}  short\n${head}  invalid_order\n`));
    expect(stdout).toContain(`\n  ${"x".repeat(160)}…\n`);
    expect(stdout).toMatch(new RegExp(`\n${head}  none\n  two\ufffdlines \ufffd31m\n`));
    expect(stdout).toEndWith("\n3 messages: 2 invalid_order, 1 none\n");
    expect(await deadLetters.depth()).toMatchObject({ visible: 3, inFlight: 0 });
    expect(await takeBodies(deadLetters)).toEqual(["short", "two\nlines \u009b31m", "x".repeat(1000)]);
    expect(await takeBodies(queue)).toEqual([]);
  });

  test("shows each of many messages once, and all are visible again", async () => {
    const { queue, deadLetters, env } = await prepare();
    await bury(queue, "invalid_json", bodies(507));
    const { stdout } = await run(["list", "--json"], env);
    const shown = jsonLines(stdout);
    const reasons = { invalid_json: 507 };
    expect(shown.pop()).toEqual({ looked: 507, matched: 507, reasons, moved: 0, kept: 507, failed: 0 });
    expect(shown.map((line) => line.body).sort()).toEqual(bodies(507).sort());
    expect(shown[0]).toEqual({
      message_id: expect.any(String),
      reason: "invalid_json",
      errors: ERRORS,
      body: expect.any(String),
      sent_at: expect.stringMatching(/^20.*Z$/),
    });
    expect(await takeBodies(deadLetters)).toEqual(bodies(507).sort());
  });

  test("shows only the reasons and as many as asked for", async () => {
    const { queue, deadLetters, env } = await prepare();
    for (const reason of ["invalid_json", "invalid_order", "value_mismatch", "none"])
      await bury(queue, reason, bodies(15, reason));
    const both = jsonLines((await run(["--json", "--reason", "none", "--reason=value_mismatch"], env)).stdout);
    expect(both.pop()).toMatchObject({ looked: 60, matched: 30, reasons: { none: 15, value_mismatch: 15 } });
    expect(new Set(both.map(({ reason }) => reason))).toEqual(new Set(["none", "value_mismatch"]));
    const few = jsonLines((await run(["--json", "--reason", "none", "--limit", "12"], env)).stdout);
    expect(few.pop()).toMatchObject({ matched: 12, reasons: { none: 12 } });
    expect(few).toHaveLength(12);
    expect((await take(deadLetters)).length).toBe(60);
  });

  test("a message that SQS delivers twice is shown once", async () => {
    let answers = 0;
    const first = Promise.withResolvers<string>();
    await using proxy = startProxy(async (action, text, forward) => {
      if (action !== "ReceiveMessage") return undefined;
      // The first answer is given to two receives.
      if (++answers > 2) return undefined;
      if (answers === 1) forward(text).then(async (answer) => first.resolve(await answer.text()));
      return new Response(await first.promise, { headers: { "content-type": "application/x-amz-json-1.0" } });
    });
    const { queue, env } = await prepare({ endpoint: proxy.url.href });
    await bury(queue, "invalid_json", bodies(3));
    const { exitCode, stdout } = await run(["--json"], env);
    expect(answers).toBeGreaterThan(2);
    expect([exitCode, jsonLines(stdout).length]).toEqual([0, 4]);
  });

  test("says that messages are hidden by somebody else", async () => {
    const { queue, deadLetters, env } = await prepare();
    await bury(queue, "invalid_json", bodies(2));
    await deadLetters.receive(0, new AbortController().signal);
    const { exitCode, stdout, stderr } = await run([], env);
    expect([exitCode, stdout]).toEqual([0, "0 messages\n"]);
    expect(stderr).toBe("About 2 further messages are hidden: another receive holds them\n");
  });

  test("`| head` ends it early, and everything is visible again", async () => {
    let receives = 0;
    await using proxy = startProxy((action) => {
      if (action === "ReceiveMessage") receives++;
      return undefined;
    });
    const { queue, deadLetters, env } = await prepare({ endpoint: proxy.url.href });
    await bury(queue, "invalid_json", bodies(900, "x".repeat(2000)));
    const command = `"${process.execPath}" scripts/redrive.ts --json | head -n 1`;
    const shell = Bun.spawn(["sh", "-c", command], {
      cwd: ROOT,
      env: { ...env, PATH: process.env.PATH ?? "" },
      stdout: "pipe",
    });
    expect(jsonLines(await shell.stdout.text())).toHaveLength(1);
    await shell.exited;
    await waitFor("the messages", async () => (await deadLetters.depth()).visible === 900);
    expect(receives).toBeLessThan(90);
  });
});

describe("back", () => {
  test("moves exactly those asked for, bodies and the sender's attributes unchanged, reason and errors gone", async () => {
    const { queue, deadLetters, env } = await prepare();
    const orders = [
      body({ order_value: 99 }),
      body({ shipping_address: "😀 é\n\t“x”" }),
      body({ extra: { deep: [1] } }),
    ];
    await bury(queue, "value_mismatch", orders);
    await bury(queue, "none", ["received too often"]);
    await bury(queue, "invalid_json", ["{"]);
    const { exitCode, stdout, stderr } = await run(["back", "--reason", "value_mismatch", "--reason", "none"], env);
    expect([exitCode, stderr]).toEqual([0, expect.stringMatching(/^5 of 5 messages \(100 %\), [\d,]+\/s\n$/)]);
    expect(stdout).toBe(`4 messages: 3 value_mismatch, 1 none\nMoved 4 to ${queue.address.url}, kept 1, failed 0\n`);
    const moved = await take(queue);
    expect(moved.map((message) => message.body).sort()).toEqual([...orders, "received too often"].sort());
    for (const { attributes } of moved) expect(attributes).toEqual({ traceparent: TRACE });
    const judged = moved.map((message) => judge(message.body, "correct").outcome);
    expect(judged.sort()).toEqual(["corrected", "counted", "counted", "rejected"]);
    const kept = await take(deadLetters);
    expect(kept.map((message) => message.body)).toEqual(["{"]);
    expect(kept[0]?.attributes).toMatchObject({ RejectReason: { StringValue: "invalid_json" } });
  });

  test("--limit moves that many and keeps the others", async () => {
    const { queue, deadLetters, env } = await prepare();
    await bury(queue, "invalid_json", bodies(205));
    const { stdout } = await run(["back", "--limit", "93", "--json"], env);
    expect(JSON.parse(stdout)).toMatchObject({ matched: 93, moved: 93, failed: 0 });
    const [moved, kept] = [await takeBodies(queue), await takeBodies(deadLetters)];
    expect([moved.length, kept.length]).toEqual([93, 112]);
    expect([...moved, ...kept].sort()).toEqual(bodies(205).sort());
  });

  test("--dry-run shows what would move and changes nothing", async () => {
    const { queue, deadLetters, env } = await prepare();
    await bury(queue, "invalid_json", bodies(4));
    await bury(queue, "none", ["another"]);
    const { exitCode, stdout } = await run(["back", "--dry-run", "--reason", "invalid_json"], env);
    expect(exitCode).toBe(0);
    for (const text of bodies(4)) expect(stdout).toContain(`\n  ${text}\n`);
    expect(stdout).toEndWith(`\n4 messages: 4 invalid_json\nWould move 4 to ${queue.address.url}\n`);
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
      expect(Object.keys(message.attributes).sort()).toEqual(["TheirNumber", "binary"]);
      expect([...(message.attributes.binary?.BinaryValue ?? [])]).toEqual([0, 255, 7]);
    }
    expect(await take(deadLetters)).toEqual([]);
  });

  test("what is rejected again meanwhile is left alone, so that the run ends", async () => {
    await using proxy = startProxy(async (action, text, forward) => {
      if (action !== "SendMessageBatch") return undefined;
      // A program that rejects at once what it is sent.
      const answer = await forward(text);
      const sent = (JSON.parse(text).Entries as { MessageBody: string }[]).map((entry) => entry.MessageBody);
      await bury(queue, "invalid_json", sent);
      return answer;
    });
    const { queue, deadLetters, env } = await prepare({ endpoint: proxy.url.href });
    await bury(queue, "invalid_json", bodies(60));
    const { exitCode, stdout } = await run(["back", "--json"], env);
    expect([exitCode, JSON.parse(stdout).moved]).toEqual([0, 60]);
    expect((await take(queue)).length).toBe(60);
    expect(await takeBodies(deadLetters)).toEqual(bodies(60).sort());
  });

  test("messages that the queue refuses stay, and the others move", async () => {
    const isBad = (text: string) => text.endsWith("7");
    await using proxy = startProxy(async (action, text, forward) => {
      if (action !== "SendMessageBatch") return undefined;
      const { QueueUrl, Entries } = JSON.parse(text) as {
        QueueUrl: string;
        Entries: { Id: string; MessageBody: string }[];
      };
      const bad = Entries.filter((entry) => isBad(entry.MessageBody));
      const good = Entries.filter((entry) => !isBad(entry.MessageBody));
      const answer = good.length > 0 ? await forward(JSON.stringify({ QueueUrl, Entries: good })) : undefined;
      const { Successful = [] } = ((await answer?.json()) ?? {}) as { Successful?: unknown[] };
      const Failed = bad.map(({ Id }) => ({ Id, SenderFault: false, Code: "InternalError", Message: "try again" }));
      return Response.json({ Successful, Failed });
    });
    const { queue, deadLetters, env } = await prepare({ endpoint: proxy.url.href });
    await bury(queue, "invalid_json", bodies(100));
    const { exitCode, stdout, stderr } = await run(["back", "--json"], env);
    expect(exitCode).toBe(1);
    expect(JSON.parse(stdout)).toMatchObject({ looked: 100, matched: 100, moved: 90, kept: 0, failed: 10 });
    expect(stderr).toEndWith("Cannot move a message: InternalError: try again\n");
    expect(await takeBodies(queue)).toEqual(
      bodies(100)
        .filter((text) => !isBad(text))
        .sort(),
    );
    expect(await takeBodies(deadLetters)).toEqual(bodies(100).filter(isBad).sort());
  });

  test("a message that cannot be deleted is in both places, and counts as failed", async () => {
    await using proxy = startProxy((action, text) => {
      if (action !== "DeleteMessageBatch") return undefined;
      const Failed = [{ Id: "1", SenderFault: false, Code: "InternalError", Message: "try again" }];
      const Entries = JSON.parse(text).Entries as { Id: string }[];
      return Response.json({ Successful: Entries.filter(({ Id }) => Id !== "1").map(({ Id }) => ({ Id })), Failed });
    });
    const { queue, env } = await prepare({ endpoint: proxy.url.href });
    await bury(queue, "invalid_json", bodies(3));
    const { exitCode, stdout } = await run(["back", "--json"], env);
    expect([exitCode, JSON.parse(stdout).moved, JSON.parse(stdout).failed]).toEqual([1, 2, 1]);
    expect(await takeBodies(queue)).toEqual(bodies(3));
  });

  test("a queue that takes nothing ends the run soon, and every message stays visible", async () => {
    let sends = 0;
    await using proxy = startProxy((action) => {
      if (action !== "SendMessageBatch") return undefined;
      sends++;
      return Response.json({ __type: "com.amazonaws.sqs#AccessDeniedException", message: "not you" }, { status: 400 });
    });
    const { queue, deadLetters, env } = await prepare({ endpoint: proxy.url.href });
    await bury(queue, "invalid_json", bodies(300));
    const { exitCode, stderr } = await run(["back"], env);
    expect(exitCode).toBe(1);
    expect(stderr).toEndWith("AccessDeniedException: not you\n");
    expect(sends).toBeLessThan(20);
    expect(await takeBodies(deadLetters)).toEqual(bodies(300).sort());
  });

  test("Ctrl-C finishes the batches in hand and releases the rest", async () => {
    let sends = 0;
    await using proxy = startProxy((action) => {
      if (action === "SendMessageBatch" && ++sends === 20) redrive.child.kill("SIGINT");
      return undefined;
    });
    const { queue, deadLetters, env } = await prepare({ endpoint: proxy.url.href });
    await bury(queue, "invalid_json", bodies(1000));
    const redrive = start(["back", "--json"], env);
    const { exitCode, stdout } = await redrive.ended;
    const [moved, kept] = [await takeBodies(queue), await takeBodies(deadLetters)];
    expect(exitCode).toBe(130);
    expect(JSON.parse(stdout)).toMatchObject({ moved: moved.length, failed: 0 });
    expect(moved.length).toBeWithin(200, 500);
    expect([...moved, ...kept].sort()).toEqual(bodies(1000).sort());
  });
});

describe("file", () => {
  test("appends one object a line, on disk before the message is deleted", async () => {
    const path = join(temporaryFolder(), "dead.jsonl");
    const missing: string[] = [];
    let deletes = 0;
    await using proxy = startProxy(async (action, text) => {
      const { QueueUrl, Entries } = JSON.parse(text) as { QueueUrl: string; Entries: unknown[] };
      if (action !== "DeleteMessageBatch" || QueueUrl !== deadLetters.address.url) return undefined;
      deletes += Entries.length;
      const lines = (await Bun.file(path).text()).split("\n").length - 1;
      if (lines < deletes) missing.push(text);
      return undefined;
    });
    const { queue, deadLetters, env } = await prepare({ endpoint: proxy.url.href });
    await bury(queue, "invalid_order", bodies(45, "a\n“b”"));
    await bury(queue, "none", ["kept"]);
    const { exitCode, stdout } = await run(["file", path, "--reason", "invalid_order"], env);
    expect([exitCode, missing]).toEqual([0, []]);
    expect(stdout).toBe(`45 messages: 45 invalid_order\nMoved 45 to ${path}, kept 1, failed 0\n`);
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
    await bury(queue, "none", ["whole"]);
    await run(["file", path], env);
    const lines = (await Bun.file(path).text()).split("\n");
    expect([lines.length, lines[1], JSON.parse(lines[2] ?? "").body]).toEqual([4, '{"messa', "whole"]);
  });

  test.each([
    ["a full disk", "/dev/full", "ENOSPC"],
    // A pipe takes what is written and cannot be synced.
    ["an fsync that fails", join(temporaryFolder(), "pipe"), "EINVAL"],
  ])("keeps every message on %s", async (_, path, reason) => {
    if (!existsSync(path)) Bun.spawnSync(["mkfifo", path]);
    const { queue, deadLetters, env } = await prepare();
    await bury(queue, "invalid_json", bodies(30));
    const { exitCode, stdout, stderr } = await run(["file", path], env);
    expect([exitCode, stderr]).toEqual([1, expect.stringMatching(`/s\n${reason}: `)]);
    expect(stdout).toEndWith(`30 messages: 30 invalid_json\nMoved 0 to ${path}, kept 0, failed 30\n`);
    expect(await takeBodies(deadLetters)).toEqual(bodies(30).sort());
  });

  test("a path that cannot be opened is one sentence, and --dry-run makes no file", async () => {
    const dir = temporaryFolder();
    const { queue, deadLetters, env } = await prepare();
    await bury(queue, "none", ["a"]);
    const { exitCode, stderr } = await run(["file", dir], env);
    expect([exitCode, stderr]).toEqual([1, expect.stringMatching(/^EISDIR: .*\n$/)]);
    expect((await run(["file", join(dir, "x"), "--dry-run"], env)).stdout).toEndWith(`Would move 1 to ${dir}/x\n`);
    expect(existsSync(join(dir, "x"))).toBe(false);
    expect(await takeBodies(deadLetters)).toEqual(["a"]);
  });
});

describe("of a FIFO queue", () => {
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

  test("back moves all of every group to it again, however long", async () => {
    const { queue, deadLetters, env } = await prepareGroups();
    const { exitCode, stdout } = await run(["back", "--json"], env);
    expect([exitCode, JSON.parse(stdout)]).toMatchObject([0, { looked: 26, moved: 26, kept: 0, failed: 0 }]);
    const moved = await take(queue);
    expect(moved.map(({ body, groupId }) => `${groupId} ${body}`).sort()).toEqual(
      [...bodies(25).map((text) => `g ${text}`), "h other"].sort(),
    );
    for (const { attributes } of moved) expect(attributes).toEqual({});
    expect(await deadLetters.depth()).toMatchObject({ visible: 0, inFlight: 0 });
  });

  test("list and a choice of reasons say that they do not see all of a group, and leave it as it was", async () => {
    const { queue, deadLetters, env } = await prepareGroups();
    const behind = "About 15 further messages are behind these: SQS shows no more of a group while some of it stays\n";
    const { exitCode, stdout, stderr } = await run(["--json"], env);
    expect([exitCode, stderr]).toEqual([1, behind]);
    expect(jsonLines(stdout).pop()).toMatchObject({ looked: 11, matched: 11 });
    const chosen = await run(["back", "--reason", "value_mismatch", "--json"], env);
    expect([chosen.exitCode, chosen.stderr]).toEqual([1, expect.stringContaining(behind)]);
    expect(JSON.parse(chosen.stdout)).toMatchObject({ looked: 11, moved: 1, kept: 10 });
    expect(await takeBodies(queue)).toEqual(["body 0"]);
    const limited = await run(["--limit", "3", "--json"], env);
    expect([limited.exitCode, limited.stderr]).toEqual([0, ""]);
    expect((await take(deadLetters)).length).toBe(25);
  });
});

describe("kill -9 while 2,000 messages move", () => {
  const original = bodies(2000).sort();

  /** Kills a run each time another part of the messages has moved, and lets the last one end. */
  async function moveWithKills(args: string[], queue: Queue, deadLetters: Queue, env: Record<string, string>) {
    for (let kills = 0; kills < 5; kills++) {
      const left = async () => {
        const { visible, inFlight } = await deadLetters.depth();
        return visible + inFlight;
      };
      // A share of what is left, not a number: a fast machine would be done before the last kill.
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
    const fast = await startFastEmulator();
    const { queue, deadLetters, env } = await prepare({ from: fast });
    await bury(queue, "invalid_json", bodies(2000));
    const moved = await moveWithKills(["back"], queue, deadLetters, env);
    expect([...new Set(moved)].sort()).toEqual(original);
    // A copy for each batch that a kill met between its two requests.
    expect(moved.length).toBeLessThan(2000 + 5 * 80 + 1);
    await fast.stop();
  });

  test("file loses none", async () => {
    const fast = await startFastEmulator();
    const path = join(temporaryFolder(), "dead.jsonl");
    const { queue, deadLetters, env } = await prepare({ from: fast });
    await bury(queue, "invalid_json", bodies(2000));
    expect(await moveWithKills(["file", path], queue, deadLetters, env)).toEqual([]);
    const lines = (await Bun.file(path).text()).split("\n").filter((line) => line.endsWith("}"));
    expect([...new Set(lines.map((line) => JSON.parse(line).body))].sort()).toEqual(original);
    await fast.stop();
  });
});

describe("usage", () => {
  test.each([
    [
      "a command that is none",
      ["purge", "now"],
      "Unexpected argument purge: see --help\nUnexpected argument now: see --help\n",
    ],
    ["a file without its path", ["file"], "file needs PATH\n"],
    ["a second path", ["file", "a", "b"], "Unexpected argument b: see --help\n"],
    ["--limit without a number", ["--limit"], '--limit must be an integer from 1 to 1000000000: got ""\n'],
    ["--limit that is no integer", ["--limit", "1e3"], '--limit must be an integer from 1 to 1000000000: got "1e3"\n'],
  ])("%s is wrong usage", async (_, args, stderr) => {
    expect(await run(args, {})).toEqual({ exitCode: 2, stdout: "", stderr });
  });

  test("every problem of the configuration is named, with exit code 1", async () => {
    const { exitCode, stderr } = await run([], { EMBEDDED_QUEUE_PORT: "x", LOG_LEVEL: "loud" });
    expect([exitCode, stderr.trimEnd().split("\n").length]).toEqual([1, 2]);
  });
});

describe("the queue", () => {
  test("is the embedded one where none is named", async () => {
    const address = await locateQueue({ name: "orders-queue", endpoint: emulator.endpoint, embedded: true });
    const queue = openQueue(address);
    opened.push(queue);
    await bury(queue, "invalid_json", ["a"]);
    const env = { EMBEDDED_QUEUE_PORT: new URL(emulator.endpoint).port };
    expect((await run(["back"], env)).exitCode).toBe(0);
    expect(await takeBodies(queue)).toEqual(["a"]);
  });

  test("is found by its name, and never created", async () => {
    const { queue, env } = await prepare();
    const { SQS_QUEUE_URL: _, ...unnamed } = env;
    await bury(queue, "none", ["a"]);
    const name = queue.address.url.split("/").at(-1) ?? "";
    expect((await run([], { ...unnamed, SQS_QUEUE_NAME: name })).stdout).toEndWith("1 messages: 1 none\n");
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

  test("that cannot be reached is one sentence", async () => {
    const { exitCode, stdout, stderr } = await run([], { EMBEDDED_QUEUE_PORT: `${freePort()}` });
    expect([exitCode, stdout]).toEqual([1, ""]);
    expect(stderr).toMatch(/^Cannot use the queue http:\S+\/orders-queue: connection refused\. .*\n$/);
  });
});
