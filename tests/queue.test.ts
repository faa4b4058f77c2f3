import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { request } from "node:http";
import { join } from "node:path";
import { CreateQueueCommand, GetQueueAttributesCommand, SendMessageCommand } from "@aws-sdk/client-sqs";
import { withDeadline } from "../deadline.ts";
import { createClient } from "../queue/client.ts";
import { type Emulator, startEmulator } from "../queue/emulator.ts";
import type { Message } from "../queue/message.ts";
import { openQueue, type Queue } from "../queue/queue.ts";
import { locateQueue } from "../queue/setup.ts";
import { openBrowser } from "./support/browser.ts";
import { temporaryFolder } from "./support/program.ts";
import { deadLettersOf, freshFifoQueue, freshQueue, startTestEmulator, takeAll } from "./support/queues.ts";
import { freePort } from "./support/redis-server.ts";
import { waitFor } from "./support/wait-for.ts";

// Real processes on a busy machine: bun's five seconds would fail a test that is only slow.
setDefaultTimeout(60_000);

let emulator: Emulator;
beforeAll(async () => {
  emulator = await startTestEmulator();
});
afterAll(() => emulator.stop());

const never = new AbortController().signal;

/** A server that answers every request as told, for what an emulator never does. */
function rawServer(answer: (request: Request) => Response | Promise<Response>, name = "q") {
  const server = Bun.serve({ hostname: "127.0.0.1", port: 0, fetch: answer });
  const address = {
    embedded: true,
    endpoint: server.url.href,
    visibilityTimeoutSeconds: 30,
  };
  const queue = openQueue({ ...address, url: `${server.url}0/${name}`, deadLetterUrl: `${server.url}0/dlq` });
  return { queue, stop: () => server.stop(true) };
}

/** Sets variables of this process for one test. Credentials in variables would come before those of a profile. */
async function withEnvironment(variables: Record<string, string>, run: () => Promise<void>) {
  const names = [...Object.keys(variables), "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"];
  const before = names.map((name) => [name, process.env[name]] as const);
  for (const name of names) delete process.env[name];
  Object.assign(process.env, variables);
  await run().finally(() => {
    for (const [name, value] of before)
      if (value === undefined) delete process.env[name];
      else process.env[name] = value;
  });
}

describe("locateQueue()", () => {
  test.each(["0", "5"])("asks for 30 s where the queue's visibility timeout is %s s", async (timeout) => {
    const queue = await freshQueue(emulator, { VisibilityTimeout: timeout });
    const { url, endpoint = "" } = queue.address;
    const address = await locateQueue({ name: "", url, endpoint, embedded: true });
    expect(address).toMatchObject({
      visibilityTimeoutSeconds: 30,
      shortVisibilityTimeoutSeconds: Number(timeout),
    });
    const located = openQueue(address);
    await located.send(["a"]);
    expect(await located.receive(0, never)).toHaveLength(1);
    expect(await located.receive(0, never)).toEqual([]);
  });

  test("creates a missing queue with its dead-letter queue, redrive after 5 receives, visibility 30 s", async () => {
    const address = await locateQueue({ name: "made", endpoint: emulator.endpoint, embedded: true });
    const client = createClient(address);
    const command = new GetQueueAttributesCommand({ QueueUrl: address.url, AttributeNames: ["All"] });
    const { Attributes } = await client.send(command);
    const deadLetter = new GetQueueAttributesCommand({
      QueueUrl: address.deadLetterUrl,
      AttributeNames: ["All"],
    });
    const { Attributes: deadLetterAttributes } = await client.send(deadLetter);
    expect(Attributes?.VisibilityTimeout).toBe("30");
    expect(JSON.parse(Attributes?.RedrivePolicy ?? "")).toEqual({
      deadLetterTargetArn: deadLetterAttributes?.QueueArn,
      maxReceiveCount: 5,
    });
    expect(address.deadLetterUrl).toEndWith("/made-dlq");
    expect(deadLetterAttributes?.MessageRetentionPeriod).toBe("1209600");
    // The longer of the two: a message may come back from either.
    expect(await locateQueue({ name: "made", endpoint: emulator.endpoint, embedded: true })).toEqual(address);
  });

  test("creates a FIFO queue, and its dead-letter queue as one, for a name that ends with .fifo", async () => {
    const address = await locateQueue({ name: "made.fifo", endpoint: emulator.endpoint, embedded: true });
    expect([address.url, address.deadLetterUrl ?? ""].map((url) => url.split("/").at(-1))).toEqual([
      "made.fifo",
      "made-dlq.fifo",
    ]);
    for (const QueueUrl of [address.url, address.deadLetterUrl]) {
      const command = new GetQueueAttributesCommand({ QueueUrl, AttributeNames: ["FifoQueue"] });
      expect((await createClient(address).send(command)).Attributes).toEqual({ FifoQueue: "true" });
    }
  });

  test.each([
    ["bare", "bare-dlq"],
    ["bare.fifo", "bare-dlq.fifo"],
  ])(
    "gives %s, which exists without a redrive policy, a dead-letter queue when it goes by name",
    async (name, dead) => {
      const client = createClient({ endpoint: emulator.endpoint, embedded: true });
      const Attributes = { VisibilityTimeout: "77", ...(name.endsWith(".fifo") && { FifoQueue: "true" }) };
      await client.send(new CreateQueueCommand({ QueueName: name, Attributes }));
      const address = await locateQueue({ name, endpoint: emulator.endpoint, embedded: true });
      expect(address).toMatchObject({ visibilityTimeoutSeconds: 77 });
      expect(address.deadLetterUrl).toEndWith(`/${dead}`);
    },
  );

  test("leaves a queue named by URL as it is", async () => {
    const client = createClient({ endpoint: emulator.endpoint, embedded: true });
    const attributes = { MessageRetentionPeriod: "600" };
    const { QueueUrl: url = "" } = await client.send(
      new CreateQueueCommand({ QueueName: "mine", Attributes: attributes }),
    );
    const all = new GetQueueAttributesCommand({ QueueUrl: url, AttributeNames: ["All"] });
    const before = await client.send(all);
    const address = await locateQueue({ name: "ignored", url, endpoint: emulator.endpoint, embedded: true });
    expect((await client.send(all)).Attributes).toEqual(before.Attributes);
    expect(address).toMatchObject({ url, visibilityTimeoutSeconds: 30 });
    expect(address.deadLetterUrl).toBeUndefined();
  });

  test.each(["GetQueueAttributes", "GetQueueUrl"])(
    "waits until %s knows a queue that was just created",
    async (action) => {
      let left = 3;
      const proxy = Bun.serve({
        hostname: "127.0.0.1",
        port: 0,
        async fetch(request) {
          const body = await request.text();
          const slow = action === "GetQueueAttributes" || body.includes("slow-GetQueueUrl-dlq");
          if (request.headers.get("x-amz-target")?.endsWith(action) && slow && left-- > 0)
            return Response.json({ __type: "com.amazonaws.sqs#QueueDoesNotExist" }, { status: 400 });
          return await fetch(emulator.endpoint, { method: "POST", headers: request.headers, body });
        },
      });
      const address = await locateQueue({ name: `slow-${action}`, endpoint: proxy.url.origin, embedded: true });
      expect(address.deadLetterUrl).toEndWith(`/slow-${action}-dlq`);
      expect(left).toBeLessThanOrEqual(0);
      await proxy.stop(true);
    },
  );

  test.each(["race", "race.fifo"])("eight processes that start at once agree on one queue %s", async (name) => {
    const wanted = { name, endpoint: emulator.endpoint, embedded: true };
    const addresses = await Promise.all(Array.from({ length: 8 }, () => locateQueue(wanted)));
    expect(new Set(addresses.map((address) => JSON.stringify(address))).size).toBe(1);
  });

  test.each([
    ["an unknown URL", () => ({ url: `${emulator.endpoint}/000000000000/nope` }), /QueueDoesNotExist.*Create it/],
    [
      "nothing listening",
      () => ({ endpoint: `http://127.0.0.1:${freePort()}` }),
      /connection refused\. Is `bun run start` running/,
    ],
  ])("rejects with one sentence for %s", async (_, fields, message) => {
    const wanted = { name: "x", endpoint: emulator.endpoint, embedded: true, ...fields() };
    await expect(locateQueue(wanted)).rejects.toThrow(message);
  });
});

test("missing rights are named action by action", async () => {
  const denied = (action: string) => ["DeleteMessageBatch", "ChangeMessageVisibilityBatch"].includes(action);
  const { queue, stop } = rawServer((request) =>
    denied(request.headers.get("x-amz-target")?.split(".")[1] ?? "")
      ? Response.json({ __type: "com.amazonaws.sqs#AccessDeniedException", message: "no" }, { status: 403 })
      : Response.json({ Attributes: { MessageRetentionPeriod: "60", VisibilityTimeout: "30" } }),
  );
  await expect(locateQueue({ name: "", ...queue.address })).rejects.toThrow(
    /: sqs:DeleteMessage and sqs:ChangeMessageVisibility is not allowed/,
  );
  stop();
});

describe("the queue", () => {
  test("delivers bodies unchanged, whatever characters they hold", async () => {
    const queue = await freshQueue(emulator);
    const bodies = ["plain", "😀 é \u00a0", '{"a":"\\u0000\\ud800"}', "a\nb\tc", "\ud7ff\ue000\ufffd", " "];
    await queue.send(bodies);
    const received = await queue.receive(0, never);
    expect(received.map(({ body }) => body)).toEqual(bodies);
    for (const { sentAtMs } of received) expect(Date.now() - sentAtMs).toBeWithin(-1, 10_000);
  });

  test("hides what was received, and shows it again when released", async () => {
    const queue = await freshQueue(emulator);
    await queue.send(["a"]);
    const received = await queue.receive(0, never);
    expect(await queue.receive(0, never)).toEqual([]);
    expect(await queue.depth()).toEqual({ visible: 0, inFlight: 1, deadLetter: 0 });
    expect(await queue.changeVisibility(received, 0)).toEqual([]);
    expect(await queue.depth()).toEqual({ visible: 1, inFlight: 0, deadLetter: 0 });
    expect(await queue.delete(await queue.receive(0, never))).toEqual([]);
    expect(await queue.depth()).toEqual({ visible: 0, inFlight: 0, deadLetter: 0 });
  });

  test.each([
    ["dlq", { visible: 3, deadLetterProblem: "dlq: GetQueueAttributes failed: no response within 0.3 s" }],
    ["q", "q: GetQueueAttributes failed: no response within 0.3 s"],
  ])("depth() names the queue that does not respond: %s", async (silent, expected) => {
    const Attributes = { ApproximateNumberOfMessages: "3" };
    const { queue, stop } = rawServer(async (request) => {
      const { QueueUrl } = (await request.json()) as { QueueUrl: string };
      return QueueUrl.endsWith(`/${silent}`) ? await new Promise<never>(() => {}) : Response.json({ Attributes });
    });
    expect(await queue.depth(300).catch(({ message }) => message)).toEqual(
      typeof expected === "string" ? expected : expect.objectContaining(expected),
    );
    stop();
  });

  test("deadLetter() copies the body unchanged with reason, errors and the sender's attributes", async () => {
    const queue = await freshQueue(emulator);
    await queue.send(["not json 😀"]);
    const [message] = await queue.receive(0, never);
    if (!message) throw new Error("nothing received");
    const errors = [{ path: "/items/0", message: "is “odd”" }];
    const trace = { DataType: "String", StringValue: "00-abc" };
    const rejected = { ...message, attributes: { traceparent: trace } };
    expect(await queue.deadLetter([{ message: rejected, reason: "invalid_json", errors }])).toEqual([]);
    const [dead] = await takeAll(deadLettersOf(queue));
    expect(dead?.body).toBe("not json 😀");
    expect(dead?.attributes).toMatchObject({
      RejectReason: { DataType: "String", StringValue: "invalid_json" },
      RejectErrors: { DataType: "String", StringValue: JSON.stringify(errors) },
      traceparent: trace,
    });
  });

  test("deadLetter() takes ten messages that are too large for one batch together", async () => {
    const queue = await freshQueue(emulator);
    const bodies = Array.from({ length: 10 }, (_, index) => `${index}${"x".repeat(200_000)}`);
    for (const body of bodies) await queue.send([body]);
    const messages = await queue.receive(0, never);
    expect(messages).toHaveLength(10);
    const rejected = messages.map((message) => ({ message, reason: "invalid_json", errors: [] }));
    expect(await queue.deadLetter(rejected)).toEqual([]);
    const dead = await takeAll(deadLettersOf(queue));
    expect(dead.map(({ body }) => body).sort()).toEqual(bodies);
  });

  /** The attributes of the dead letter of a body, and what does not fit. */
  async function deadLetterOf(queue: Queue, sent: Partial<Message>, errors = ERRORS) {
    await queue.send([sent.body ?? "{"]);
    const [received] = await queue.receive(0, never);
    if (!received) throw new Error("nothing received");
    const message = { ...received, ...sent };
    const dropped: string[] = [];
    const rejected = [{ message, reason: "invalid_order", errors }];
    const failures = await queue.deadLetter(rejected, (_, names) => dropped.push(...names));
    const [dead] = await takeAll(deadLettersOf(queue));
    await queue.delete([received]);
    return { failures, dropped, dead, id: message.id, texts: textsOf(dead) };
  }

  const ERRORS = Array.from({ length: 3 }, (_, index) => ({ path: `/items/${index}`, message: "must be an object" }));
  const text = (StringValue: string) => ({ DataType: "String", StringValue });
  const textsOf = (message: Message | undefined) =>
    Object.fromEntries(Object.entries(message?.attributes ?? {}).map(([name, value]) => [name, value.StringValue]));

  const WITH_REASON = ["RejectReason"];
  const WITH_ID = ["OriginalMessageId", ...WITH_REASON];
  const WITH_ERRORS = ["OriginalMessageId", "RejectErrors", "RejectReason"];
  test.each([
    [0, 0, []],
    [22, 0, []],
    [31, 0, WITH_REASON],
    [90, 0, WITH_ID],
    [159, 1, WITH_ERRORS],
    [209, 2, WITH_ERRORS],
    [258, 2, [...WITH_ERRORS, "traceparent"]],
    [259, 3, WITH_ERRORS],
    [308, 3, [...WITH_ERRORS, "traceparent"]],
    [10_000, 3, [...WITH_ERRORS, "a", "traceparent"]],
  ])(
    "a body %i bytes below the limit is dead-lettered with %i errors and what else fits: %j",
    async (room, count, names) => {
      const queue = await freshQueue(emulator);
      const all = [...WITH_ERRORS, "a", "traceparent"];
      const attributes = { a: text("x".repeat(20)), traceparent: text("00-abc") };
      for (const maxBytes of [1024 * 1024, 20_000]) {
        const limited = openQueue({ ...queue.address, maxBytes });
        const body = "é".repeat((maxBytes - room) / 2) + "x".repeat(room % 2);
        const { failures, dropped, dead, texts } = await deadLetterOf(limited, { body, attributes });
        expect([failures, dead?.body === body, Object.keys(texts).sort()]).toEqual([[], true, names.toSorted()]);
        expect(JSON.parse(texts.RejectErrors ?? "[]")).toEqual(ERRORS.slice(0, count));
        expect(dropped.sort()).toEqual(
          all.filter((name) => !names.includes(name) || (name === "RejectErrors" && count < 3)),
        );
      }
    },
  );

  test("the limit is that of the dead-letter queue; a body beyond it is named as a failure, and only that one", async () => {
    const client = createClient({ endpoint: emulator.endpoint, embedded: true });
    const Attributes = { MaximumMessageSize: "2048" };
    await client.send(new CreateQueueCommand({ QueueName: "limited-dlq", Attributes }));
    const queue = openQueue(await locateQueue({ name: "limited", endpoint: emulator.endpoint, embedded: true }));
    const { failures, dropped, texts } = await deadLetterOf(queue, { body: "x".repeat(2000) });
    expect([failures, dropped, texts]).toEqual([
      [],
      ["OriginalMessageId", "RejectErrors"],
      { RejectReason: "invalid_order" },
    ]);
    await queue.send(["x".repeat(2049), "small"]);
    const messages = await queue.receive(0, never);
    const rejected = messages.map((message) => ({ message, reason: "invalid_json", errors: [] }));
    const failed = await queue.deadLetter(rejected);
    expect(failed.map(({ message }) => message.body.length)).toEqual([2049]);
    expect((await queue.depth()).deadLetter).toBe(1);
  });

  test("ten attributes of the sender: what does not fit is named, the trace stays, and a second rejection loses no more", async () => {
    const queue = await freshQueue(emulator);
    // Names that JavaScript sorts before all others, or that an object has already.
    const names = ["1", "a", "__proto__", "b", "c", "d", "e", "f", "g"];
    const attributes = Object.fromEntries([...names, "traceparent"].map((name) => [name, text(`of ${name}`)]));
    const first = await deadLetterOf(queue, { attributes });
    const kept = ["1", "__proto__", "a", "b", "c", "d", "traceparent"].map((name) => [name, `of ${name}`]);
    expect(first.dropped).toEqual(["e", "f", "g"]);
    expect(first.texts).toEqual({
      RejectReason: "invalid_order",
      RejectErrors: JSON.stringify(ERRORS),
      OriginalMessageId: first.id,
      ...Object.fromEntries(kept),
    });
    // Moved back by the console of AWS, which keeps every attribute, and rejected again for another reason.
    const again = await deadLetterOf(queue, { attributes: first.dead?.attributes ?? {} }, ERRORS.slice(0, 1));
    expect([again.dropped, again.texts]).toEqual([
      [],
      { ...first.texts, RejectErrors: JSON.stringify(ERRORS.slice(0, 1)) },
    ]);
    expect(again.id).not.toBe(first.id);
  });

  test.each<[string, Message["attributes"][string], boolean]>([
    ["another program's text", text("an id"), false],
    ["bytes", { DataType: "Binary", BinaryValue: new Uint8Array([1]) }, false],
    ["too long", text("x".repeat(101)), false],
    ["an id", text("x".repeat(100)), true],
  ])("an original message id that is %s", async (_, OriginalMessageId, isKept) => {
    const { texts, id } = await deadLetterOf(await freshQueue(emulator), { attributes: { OriginalMessageId } });
    expect(texts.OriginalMessageId).toBe(isKept ? OriginalMessageId.StringValue : id);
  });

  test("reason and errors have no character that SQS refuses, and a message without an id no empty attribute", async () => {
    const queue = await freshQueue(emulator);
    const errors = [{ path: "/\u0001\ufffe", message: "\ud800 \uffff é 😀" }];
    const { failures, texts } = await deadLetterOf(queue, { id: "" }, errors);
    expect(failures).toEqual([]);
    expect(Object.keys(texts).sort()).toEqual(["RejectErrors", "RejectReason"]);
    expect(JSON.parse(texts.RejectErrors ?? "")).toEqual([{ path: "/\u0001\ufffd", message: "\ud800 \ufffd é 😀" }]);
  });

  test("redrive() keeps the first id and the sender's attributes, without the id where ten or the size leave no room", async () => {
    const queue = await freshQueue(emulator);
    const back = async (limited: Queue, dead: Message | undefined) => {
      expect(await limited.redrive(dead ? [dead] : [])).toEqual([]);
      return textsOf((await takeAll(queue))[0]);
    };
    const { dead, id } = await deadLetterOf(queue, { attributes: { a: text("b") } });
    expect(await back(queue, dead)).toEqual({ a: "b", OriginalMessageId: id });
    const ten = Object.fromEntries([..."abcdefghij"].map((name) => [name, text("x")]));
    expect(await back(queue, dead && { ...dead, attributes: ten })).toEqual(
      Object.fromEntries([..."abcdefghij"].map((name) => [name, "x"])),
    );
    const small = openQueue({ ...queue.address, maxBytes: 20 });
    expect(await back(small, dead)).toEqual({ a: "b" });
  });

  test("the Failed list of an answer is read: those messages are answered, with the reason", async () => {
    const failed = [{ Id: "1", SenderFault: false, Code: "InternalError", Message: "try again" }];
    const sent = ["a", "", "c"].map((body, index) => ({
      Id: `${index}`,
      MD5OfMessageBody: new Bun.CryptoHasher("md5").update(body).digest("hex"),
    }));
    const { queue, stop } = rawServer(() => Response.json({ Successful: [sent[0], sent[2]], Failed: failed }));
    const messages = ["a", "b", "c"].map((id) => ({
      id,
      body: id,
      receiptHandle: id,
      sentAtMs: 0,
      attributes: {},
    }));
    const expected = [{ message: messages[1], reason: "InternalError: try again" }];
    expect(await queue.delete(messages)).toEqual(expected as never);
    expect(await queue.changeVisibility(messages, 5)).toEqual(expected as never);
    const rejected = messages.map((message) => ({ message, reason: "invalid_json", errors: [] }));
    expect(await queue.deadLetter(rejected)).toEqual(expected as never);
    await expect(queue.send(["a", "b"])).rejects.toThrow("Cannot send 1 message: try again");
    stop();
  });

  describe.each(["fetch", "sdk"] as const)("with the client %s", (client) => {
    test("rejects messages whose body differs from its checksum", async () => {
      const Messages = [{ MessageId: "m1", Body: "changed", MD5OfBody: "d41d8cd98f00b204e9800998ecf8427e" }];
      const { queue, stop } = rawServer(() => Response.json({ Messages }));
      const receiving = openQueue({ ...queue.address, client }).receive(0, never);
      await expect(receiving).rejects.toThrow("Invalid MD5 checksum on messages: m1");
      stop();
    });

    test("receives what other servers send: no checksum, null, missing and unknown fields", async () => {
      const nulls = { DataType: "String", StringValue: "x", BinaryValue: null };
      const Messages = [
        { MessageId: "m1", Body: "a", ReceiptHandle: "r1", MessageAttributes: null, Attributes: null, Extra: { a: 1 } },
        { MessageId: "m2", ReceiptHandle: "r2" },
        {
          MessageId: "m3",
          Body: "a",
          MD5OfBody: "0CC175B9C0F1B6A831C399E269772661",
          Attributes: { SentTimestamp: "soon" },
        },
        { MessageId: "m4", Body: "a", MessageAttributes: { a: null, b: nulls, c: {} } },
      ];
      const { queue, stop } = rawServer(() => Response.json({ Messages, Extra: null }));
      const received = await openQueue({ ...queue.address, client }).receive(0, never);
      expect(received).toMatchObject([
        { id: "m1", body: "a", attributes: {} },
        { id: "m2", body: "", attributes: {} },
        { id: "m3", receiveCount: 1 },
        { id: "m4", attributes: { b: { DataType: "String", StringValue: "x" } } },
      ]);
      for (const { sentAtMs } of received) expect(sentAtMs).toBeWithin(Date.now() - 60_000, Date.now() + 1);
      stop();
    });

    test.each([[{}], [5], [[null, 5]]])("neither stops nor throws for Messages: %j", async (Messages) => {
      const { queue, stop } = rawServer(() => Response.json({ Messages }));
      const receiving = openQueue({ ...queue.address, client }).receive(0, never);
      expect(await receiving.catch(({ message }) => message)).toSatisfy(
        (result) => Bun.deepEquals(result, []) || /not in the protocol of SQS|not iterable/.test(`${result}`),
      );
      stop();
    });

    test.each(["ExpiredToken", "InvalidClientTokenId", "UnrecognizedClientException"])(
      "uses the new credentials of a profile after %s",
      async (code) => {
        const file = join(temporaryFolder(), "credentials");
        const write = (key: string) =>
          writeFileSync(file, `[default]\naws_access_key_id = ${key}\naws_secret_access_key = s\n`);
        write("OLD");
        const server = Bun.serve({
          hostname: "127.0.0.1",
          port: 0,
          fetch: ({ headers }) =>
            headers.get("authorization")?.includes("Credential=NEW/")
              ? Response.json({ Attributes: {}, Messages: [] })
              : Response.json({ __type: `com.amazonaws.sqs#${code}`, message: "no" }, { status: 403 }),
        });
        const environment = { AWS_SHARED_CREDENTIALS_FILE: file, AWS_REGION: "us-east-1" };
        await withEnvironment(environment, async () => {
          const url = `${server.url}0/q`;
          const address = { url, endpoint: server.url.href, embedded: false, client, visibilityTimeoutSeconds: 30 };
          const queue = openQueue(address);
          await expect(queue.receive(0, never)).rejects.toThrow(code);
          write("NEW");
          await waitFor("the new credentials", () =>
            queue.receive(0, never).then(
              () => true,
              () => false,
            ),
          );
          expect(await queue.depth()).toMatchObject({ visible: 0 });
        });
        await server.stop(true);
      },
    );
  });

  test.each(["q", "q.fifo"])(
    "%s: X-Ray header and group are asked for, and go to the dead letters and back",
    async (name) => {
      const requests: Record<string, unknown>[] = [];
      const header = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1";
      const Attributes = { SentTimestamp: "1", AWSTraceHeader: header, MessageGroupId: "g" };
      const MD5OfBody = "0cc175b9c0f1b6a831c399e269772661";
      const Messages = [{ MessageId: "m", Body: "a", MD5OfBody, ReceiptHandle: "r", Attributes }];
      const { queue, stop } = rawServer(async (request) => {
        requests.push((await request.json()) as Record<string, unknown>);
        return Response.json({ Messages, Successful: [{ Id: "0", MD5OfMessageBody: MD5OfBody }] });
      }, name);
      for (const client of ["fetch", "sdk"] as const) {
        const [message] = await openQueue({ ...queue.address, client }).receive(0, never);
        if (!message) throw new Error("nothing received");
        expect(message).toMatchObject({ traceHeader: header, sentAtMs: 1, groupId: "g" });
        expect(await queue.deadLetter([{ message, reason: "invalid_json", errors: [] }])).toEqual([]);
        expect(await queue.redrive([message])).toEqual([]);
        const [received, ...sent] = requests.splice(0);
        expect(received?.MessageSystemAttributeNames).toContain("AWSTraceHeader");
        expect(received?.MessageSystemAttributeNames).toContain("MessageGroupId");
        const passedOn = {
          MessageGroupId: "g",
          MessageSystemAttributes: { AWSTraceHeader: { DataType: "String", StringValue: header } },
        };
        expect(sent).toMatchObject([{ Entries: [passedOn] }, { Entries: [passedOn] }]);
        // AWS refuses a message to a standard queue that has one.
        const ids = sent.map(({ Entries }) => (Entries as Record<string, string>[])[0]?.MessageDeduplicationId);
        expect(ids).toEqual(name === "q.fifo" ? ["m", "m"] : [undefined, undefined]);
      }
      stop();
    },
  );

  test("what the answer to a send does not name is no dead letter, and its original is not deleted", async () => {
    const { queue, stop } = rawServer(() => Response.json({}));
    const [a, b] = ["a", "b"].map((id) => ({ id, body: id, receiptHandle: id, sentAtMs: 0, attributes: {} }));
    if (!a || !b) throw new Error("two messages");
    const rejected = [a, b].map((message) => ({ message, reason: "invalid_json", errors: [] }));
    const failures = await queue.deadLetter(rejected);
    expect(failures.map(({ message, reason }) => [message.id, reason.split(":")[0]])).toEqual([
      ["a", "Unconfirmed"],
      ["b", "Unconfirmed"],
    ]);
    await expect(queue.send(["a"])).rejects.toThrow("Cannot send 1 message: Unconfirmed");
    stop();
  });

  test("a receive that is never answered ends five seconds after its wait", async () => {
    const { queue, stop } = rawServer(() => new Promise<Response>(() => {}));
    const before = performance.now();
    await expect(queue.receive(0, never)).rejects.toThrow("ReceiveMessage failed: no response within 5 s");
    expect(performance.now() - before).toBeWithin(4900, 6500);
    stop();
  });

  test("a receive whose answer stalls in the middle ends too", async () => {
    const stalled = () =>
      new Response(
        new ReadableStream({
          start: (controller) => controller.enqueue(new TextEncoder().encode('{"Messages":[')),
        }),
      );
    const { queue, stop } = rawServer(stalled);
    await expect(queue.receive(0, never)).rejects.toThrow("no response within 5 s");
    stop();
  });

  test("a deadline holds for what does not hear the signal", async () => {
    const never = new Promise<never>(() => {});
    await expect(withDeadline(50, undefined, () => never)).rejects.toThrow("no response within 0.05 s");
    const stopping = AbortSignal.abort();
    await expect(withDeadline(5_000, stopping, () => never)).rejects.toThrow();
  });

  test("aborting ends a long poll at once, and the next message is not handed to it", async () => {
    const queue = await freshQueue(emulator);
    const stopping = new AbortController();
    const polling = queue.receive(20, stopping.signal);
    await Bun.sleep(100); // the request must have reached the emulator; nothing shows that it has
    const before = performance.now();
    stopping.abort();
    await expect(polling).rejects.toThrow();
    expect(performance.now() - before).toBeLessThan(500);
    // The emulator hears of the closed connection before it has answered these.
    for (let request = 0; request < 5; request++) await queue.depth();
    await queue.send(["late"]);
    expect(await queue.receive(1, never)).toHaveLength(1);
  });
});

test("a standard queue with groups: they stay with the dead letters, and with what is moved back", async () => {
  const queue = await freshQueue(emulator);
  const client = createClient(queue.address);
  for (const MessageGroupId of ["a", "b", undefined]) {
    const MessageBody = `of ${MessageGroupId}`;
    await client.send(new SendMessageCommand({ QueueUrl: queue.address.url, MessageBody, MessageGroupId }));
  }
  const groups = (messages: Message[]) => Object.fromEntries(messages.map(({ body, groupId }) => [body, groupId]));
  const expected = { "of a": "a", "of b": "b", "of undefined": undefined };
  const messages = await queue.receive(0, never);
  expect(groups(messages)).toEqual(expected);
  const rejected = messages.map((message) => ({ message, reason: "invalid_json", errors: [] }));
  expect(await queue.deadLetter(rejected)).toEqual([]);
  const dead = await takeAll(deadLettersOf(queue));
  expect(groups(dead)).toEqual(expected);
  expect(await queue.redrive(dead)).toEqual([]);
  expect(groups(await queue.receive(0, never))).toEqual(expected);
});

describe("a FIFO queue", () => {
  const letters = (messages: Message[]) => messages.map(({ body }) => body).join("");

  test("hides a group while some of it is in flight, and no other group", async () => {
    const queue = await freshFifoQueue(emulator);
    await queue.send([..."abcdefghij"], Array(10).fill("one"));
    await queue.send([..."kl", ..."xyz"], ["one", "one", "two", "two", "two"]);
    const ten = await queue.receive(0, never);
    const other = await queue.receive(0, never);
    expect([letters(ten), letters(other)]).toEqual(["abcdefghij", "xyz"]);
    // Some of each leave; of the other group some stay hidden for longer, and hide what is visible behind them.
    await queue.delete([...ten.slice(0, 2), ...other.slice(0, 1)]);
    expect(await queue.changeVisibility(ten.slice(2).reverse(), 0)).toEqual([]);
    expect(await queue.changeVisibility(other.slice(1, 2), 60)).toEqual([]);
    expect(await queue.changeVisibility(other.slice(2), 0)).toEqual([]);
    expect(letters(await takeAll(queue))).toBe("cdefghijkl");
    expect(await queue.depth()).toEqual({ visible: 1, inFlight: 1, deadLetter: 0 });
  });

  test("takes an equal body each time it is sent, and one of a request that is sent again", async () => {
    const queue = await freshFifoQueue(emulator);
    let lost = 0;
    await using proxy = Bun.serve({
      hostname: "127.0.0.1",
      port: 0,
      async fetch(request) {
        const [{ headers }, body] = [request, await request.text()];
        const answer = await fetch(emulator.endpoint, { method: "POST", headers, body });
        return lost++ > 0 ? answer : Response.json({ __type: "InternalError" }, { status: 500 });
      },
    });
    await openQueue({ ...queue.address, endpoint: proxy.url.href }).send(["same", "same"], ["g", "g"]);
    await queue.send(["same"], ["g"]);
    expect([lost, letters(await takeAll(queue))]).toEqual([2, "samesamesame"]);
  });

  test("a dead letter keeps body and group, makes no second copy when it is sent again, and comes back once", async () => {
    const queue = await freshFifoQueue(emulator);
    await queue.send(["{", "["], ["one", "two"]);
    const rejected = (await queue.receive(0, never)).map((message) => ({
      message,
      reason: "invalid_json",
      errors: [],
    }));
    // The delete failed, or the process died before it: the same messages come again.
    for (let sends = 0; sends < 2; sends++) expect(await queue.deadLetter(rejected)).toEqual([]);
    await queue.delete(rejected.map(({ message }) => message));
    const dead = await takeAll(deadLettersOf(queue));
    const sent = [
      { body: "{", groupId: "one" },
      { body: "[", groupId: "two" },
    ];
    expect(dead).toMatchObject(sent.map((each) => ({ ...each, attributes: { RejectReason: expect.anything() } })));
    for (let sends = 0; sends < 2; sends++) expect(await queue.redrive(dead)).toEqual([]);
    const back = await takeAll(queue);
    expect(back).toMatchObject(sent);
    // Rejected again, within the five minutes: a message of its own.
    const again = back.map((message) => ({ message, reason: "invalid_json", errors: [] }));
    expect(await queue.deadLetter(again)).toEqual([]);
    expect((await queue.depth()).deadLetter).toBe(2);
  });

  test.each(["fetch", "sdk"] as const)(
    "a receive by %s that is tried again has the id of its first try",
    async (client) => {
      const ids: unknown[] = [];
      const { queue, stop } = rawServer(async (request) => {
        ids.push(((await request.json()) as Record<string, unknown>).ReceiveRequestAttemptId);
        return ids.length === 1 ? Response.json({}, { status: 500 }) : Response.json({});
      }, "q.fifo");
      const { receive } = openQueue({ ...queue.address, client });
      await receive(0, never);
      await receive(0, never);
      expect(ids).toEqual([expect.stringMatching(/^[\w-]{36}$/), ids[0], expect.stringMatching(/^[\w-]{36}$/)]);
      expect(ids[2]).not.toBe(ids[0]);
      stop();
    },
  );

  test.each(["q.fifo", "q"])("a receive from %s that was throttled is tried again as a new one", async (name) => {
    const ids: unknown[] = [];
    const { queue, stop } = rawServer(async (request) => {
      ids.push(((await request.json()) as Record<string, unknown>).ReceiveRequestAttemptId);
      const throttled = { __type: "com.amazonaws.sqs#RequestThrottled", message: "slow down" };
      return ids.length === 1 ? Response.json(throttled, { status: 400 }) : Response.json({});
    }, name);
    await queue.receive(0, never);
    const id = name === "q.fifo" ? expect.any(String) : undefined;
    expect(ids).toEqual([id, id]);
    expect(new Set(ids).size).toBe(name === "q.fifo" ? 2 : 1);
    stop();
  });
});

describe("the embedded queue", () => {
  test("keeps its messages over a restart", async () => {
    const dir = join(temporaryFolder(), "queue");
    const first = await startTestEmulator(dir);
    const queue = await freshQueue(first);
    await queue.send(["kept 1", "kept 2", "deleted"]);
    const messages = await queue.receive(0, never);
    await queue.delete(messages.filter(({ body }) => body === "deleted"));
    await queue.changeVisibility(
      messages.filter(({ body }) => body !== "deleted"),
      0,
    );
    await first.stop();
    const second = await startTestEmulator(dir);
    const name = queue.address.url.split("/").at(-1) ?? "";
    const again = openQueue(await locateQueue({ name, endpoint: second.endpoint, embedded: true }));
    expect((await takeAll(again)).map(({ body }) => body).sort()).toEqual(["kept 1", "kept 2"]);
    await second.stop();
  });

  test("listens on loopback only", async () => {
    const listening = await Bun.file("/proc/net/tcp").text();
    const port = Number(new URL(emulator.endpoint).port).toString(16).toUpperCase().padStart(4, "0");
    const local = listening.split("\n").flatMap((line) => line.trim().split(/\s+/)[1] ?? []);
    expect(local.filter((address) => address.endsWith(`:${port}`))).toContain(`0100007F:${port}`);
    expect(local).not.toContain(`00000000:${port}`);
  });

  /** A request as a local program could send it, with any header. */
  const ask = (headers: Record<string, string>, body = "{}", method = "POST", path = "/") =>
    new Promise<{ status: number | undefined; text: string }>((resolve, reject) => {
      const sent = request(emulator.endpoint + path, { method, headers }, async (response) =>
        resolve({ status: response.statusCode, text: (await response.toArray()).join("") }),
      );
      sent.on("error", reject).end(body);
    });
  const SQS = { "content-type": "application/x-amz-json-1.0", "x-amz-target": "AmazonSQS.ListQueues" };
  const FORM = { "content-type": "application/x-www-form-urlencoded", authorization: "AWS4-HMAC-SHA256 Credential=a" };

  test.each<[string, Parameters<typeof ask>]>([
    ["a foreign Host", [{ ...SQS, host: "rebound.example" }]],
    ["a foreign Host with the port of the queue", [{ ...SQS, host: "rebound.example:4566" }]],
    ["no target", [{ "content-type": "application/x-amz-json-1.0" }]],
    ["the content type of a form", [{ ...SQS, "content-type": "text/plain" }]],
    ["SNS: a new topic", [FORM, "Action=CreateTopic&Name=orders"]],
    ["SNS: a subscription", [FORM, "Action=Subscribe&TopicArn=arn:aws:sns:us-east-1:000000000000:orders&Protocol=sqs"]],
    ["SNS: a message", [{ ...FORM, "x-amz-target": "AmazonSQS.SendMessage" }, "Action=Publish&Message=m"]],
    ["STS", [FORM, "Action=GetCallerIdentity"]],
    ["S3: a bucket", [{}, "", "PUT", "/bucket"]],
    ["S3: a list of buckets", [{}, "", "GET"]],
    ["S3 with the headers of SQS", [SQS, "{}", "POST", "/bucket"]],
    ["inspection", [{}, "", "GET", "/_fauxqs/queues"]],
    ["a preflight", [{ origin: "http://evil.example", "access-control-request-method": "POST" }, "", "OPTIONS"]],
  ])("refuses %s", async (_, sent) => {
    const { status, text } = await ask(...sent);
    expect(status).toBe(403);
    expect(text).toContain("accepts only SQS requests");
  });

  test.each(["127.0.0.1", "localhost:4566", "sqs.localhost", "[::1]:4566"])("accepts the Host %s", async (host) => {
    expect(await ask({ ...SQS, host })).toMatchObject({ status: 200 });
  });

  test("gets nothing from a web page, neither by its forms nor by its scripts", async () => {
    const queue = await freshQueue(emulator);
    const { hostname, port } = new URL(emulator.endpoint);
    const arn = `arn:aws:sqs:us-east-1:000000000000:${queue.address.url.split("/").at(-1)}`;
    const topic = "arn:aws:sns:us-east-1:000000000000:page";
    const forms = [
      { Action: "CreateTopic", Name: "page" },
      { Action: "Subscribe", TopicArn: topic, Protocol: "sqs", Endpoint: arn },
      { Action: "Publish", TopicArn: topic, Message: "from a page" },
    ];
    const fields = (form: object) =>
      Object.entries(form).map(([name, value]) => `<input name="${name}" value="${value}">`);
    const page = (form: object) =>
      `<form method="post" action="${emulator.endpoint}/">${fields(form).join("")}</form><script>document.forms[0].submit()</script>`;
    const html = { headers: { "content-type": "text/html" } };
    const site = Bun.serve({ port: 0, fetch: ({ url }) => new Response(page(forms[+url.slice(-1)] ?? {}), html) });
    const browser = await openBrowser([`host-resolver-rules=MAP rebound.example ${hostname}`]);
    const tab = await browser.newPage();
    for (const index of forms.keys()) {
      const refused = tab.waitForResponse(`${emulator.endpoint}/`);
      await tab.goto(`http://localhost:${site.port}/${index}`).catch(() => {}); // The form navigates at once.
      expect((await refused).status()).toBe(403);
    }
    const send = { QueueUrl: queue.address.url, MessageBody: "from a page" };
    const init = { method: "POST", body: JSON.stringify(send) };
    const json = { ...SQS, "x-amz-target": "AmazonSQS.SendMessage" };
    const inPage = (url: string, init: { method: string; mode?: "no-cors"; headers?: Record<string, string> }) =>
      tab.evaluate(
        async ([url, init]) => {
          const response = await fetch(url, init).catch(() => undefined);
          return response ? response.status || response.type : "blocked";
        },
        [url, init] as const,
      );
    const blank = Bun.serve({ port: 0, fetch: () => new Response("<title>page</title>", html) });
    await tab.goto(`http://localhost:${blank.port}/`);
    expect(await inPage(emulator.endpoint, { ...init, headers: json })).toBe("blocked");
    expect(await inPage(emulator.endpoint, { ...init, mode: "no-cors" })).toBe("opaque");
    // DNS rebinding: the name of the page is now that of this machine, and the page may send what it likes.
    await tab.goto(`http://rebound.example:${port}/`);
    expect(await inPage("/", { ...init, headers: json })).toBe(403);
    await Promise.all([browser.close(), site.stop(true), blank.stop(true)]);
    expect(await takeAll(queue)).toEqual([]);
  });

  test("a taken port is one sentence", async () => {
    const port = Number(new URL(emulator.endpoint).port);
    const starting = startEmulator({ port, dir: join(temporaryFolder(), "queue") }, () => {});
    await expect(starting).rejects.toThrow(`Cannot start the embedded queue: 127.0.0.1:${port} is in use`);
  });
});
