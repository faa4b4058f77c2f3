import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { createHash, createHmac } from "node:crypto";
import { SendMessageCommand } from "@aws-sdk/client-sqs";
import { SignatureV4 } from "@smithy/signature-v4";
import fc from "fast-check";
import { createClient } from "../queue/client.ts";
import type { Emulator } from "../queue/emulator.ts";
import { fetchRequests, type QueueRequests, sdkRequests } from "../queue/requests.ts";
import { createSigner } from "../queue/sigv4.ts";
import { freshQueue, startTestEmulator } from "./support/queues.ts";

// Real processes on a busy machine: bun's five seconds would fail a test that is only slow.
setDefaultTimeout(60_000);

const never = new AbortController().signal;

describe("createSigner()", () => {
  const credentials = { accessKeyId: "AKIDEXAMPLE", secretAccessKey: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY" };
  const scope = { credentials, region: "us-east-1", service: "service" };
  const now = new Date("2015-08-30T12:36:00Z");
  const host = "example.amazonaws.com";

  // AWS's published test suite: those of its vectors that are a POST to / without a query.
  test.each([
    ["post-vanilla", { host }, "", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"],
    [
      "post-x-www-form-urlencoded",
      { host, "content-type": "application/x-www-form-urlencoded" },
      "Param1=value1",
      "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
    ],
  ])("agrees with AWS's vector %s", (_, headers, body, signature) => {
    expect(createSigner(scope, now)(headers as Record<string, string>, body).authorization).toEndWith(
      `Signature=${signature}`,
    );
  });

  test("agrees with the SDK's signer over thousands of requests", async () => {
    const text = fc.string({ unit: "binary", maxLength: 200 }).map((value) => value.toWellFormed());
    const word = fc.stringMatching(/^[A-Za-z0-9/+=]{1,40}$/);
    const request = fc.record({
      body: text,
      target: fc.stringMatching(/^[A-Za-z.]{1,40}$/),
      accessKeyId: word,
      secretAccessKey: word,
      sessionToken: fc.option(word, { nil: undefined }),
      region: fc.constantFrom("us-east-1", "eu-central-1", "ap-southeast-2"),
      port: fc.constantFrom("", ":4566"),
      now: fc.date({ min: new Date("2015-01-01"), max: new Date("2099-01-01"), noInvalidDate: true }),
    });
    const property = fc.asyncProperty(request, async ({ body, target, region, port, now, ...keys }) => {
      const headers = {
        host: `sqs.${region}.amazonaws.com${port}`,
        "content-type": "application/x-amz-json-1.0",
        "x-amz-target": target,
      };
      const signer = new SignatureV4({
        credentials: keys,
        region,
        service: "sqs",
        sha256: Sha256 as never,
        applyChecksum: false,
      });
      const shape = { method: "POST", protocol: "https:", hostname: "x", path: "/", query: {}, headers, body };
      const theirs = (await signer.sign(shape as never, { signingDate: now })) as unknown as typeof shape;
      const ours = createSigner({ credentials: keys, region, service: "sqs" }, now)(headers, body);
      expect(ours.authorization).toBe((theirs.headers as Record<string, string>).authorization as string);
      expect(ours["x-amz-date"]).toBe((theirs.headers as Record<string, string>)["x-amz-date"] as string);
    });
    await fc.assert(property, { numRuns: 3000 });
  });
});

/** What the SDK's signer hashes with. */
class Sha256 {
  readonly #hash;
  constructor(secret?: string | ArrayBuffer | Uint8Array) {
    this.#hash = secret === undefined ? createHash("sha256") : createHmac("sha256", secret as Uint8Array);
  }
  update(data: string | Uint8Array) {
    this.#hash.update(data);
  }
  async digest() {
    return new Uint8Array(this.#hash.digest());
  }
  reset() {}
}

let emulator: Emulator;
beforeAll(async () => {
  emulator = await startTestEmulator();
});
afterAll(() => emulator.stop());

describe.each(["fetch", "sdk"])("the %s path", (kind) => {
  test("receives, hides, releases and deletes as the other one does", async () => {
    const queue = await freshQueue(emulator);
    const QueueUrl = queue.address.url;
    const client = createClient(queue.address);
    const path: QueueRequests = kind === "fetch" ? fetchRequests(client, QueueUrl) : sdkRequests(client);
    await queue.send(["one 😀", "two"]);
    const input = { QueueUrl, MaxNumberOfMessages: 10, WaitTimeSeconds: 0 };
    const { Messages = [] } = await path.receive(input, never);
    expect(Messages.map(({ Body }) => Body)).toEqual(["one 😀", "two"]);
    expect((await path.receive(input, never)).Messages).toBeUndefined();
    const entry = (index: number) => ({ Id: `${index}`, ReceiptHandle: Messages[index]?.ReceiptHandle });
    const hidden = await path.changeVisibility({ QueueUrl, Entries: [{ ...entry(0), VisibilityTimeout: 0 }] }, never);
    expect(hidden.Successful).toEqual([{ Id: "0" }]);
    expect((await path.delete({ QueueUrl, Entries: [entry(1)] }, never)).Successful).toEqual([{ Id: "1" }]);
    expect(await queue.depth()).toEqual({ visible: 1, inFlight: 0, deadLetter: 0 });
    const sent = { DataType: "Binary", BinaryValue: new Uint8Array([1, 2, 255]) };
    await client.send(new SendMessageCommand({ QueueUrl, MessageBody: "bytes", MessageAttributes: { sent } }));
    const withBytes = await path.receive({ ...input, MessageAttributeNames: ["All"] }, never);
    const [bytes] = (withBytes.Messages ?? []).filter(({ Body }) => Body === "bytes");
    expect([...(bytes?.MessageAttributes?.sent?.BinaryValue ?? [])]).toEqual([1, 2, 255]);
    const unknown = path.receive({ ...input, QueueUrl: `${QueueUrl}-nope` }, never);
    await expect(unknown).rejects.toMatchObject({ name: "QueueDoesNotExist" });
  });
});

describe("the fetch path", () => {
  /** A path to a server that answers in turn as told, with the requests it got. */
  function scripted(...answers: (() => Response | Promise<Response>)[]) {
    const requests: { headers: Headers; body: unknown }[] = [];
    const server = Bun.serve({
      hostname: "127.0.0.1",
      port: 0,
      fetch: async (request) => {
        requests.push({ headers: request.headers, body: await request.json() });
        return (await (answers[Math.min(requests.length, answers.length) - 1] ?? answers[0])?.()) ?? new Response();
      },
    });
    const client = createClient({ endpoint: server.url.href, embedded: true });
    const path = fetchRequests(client, `${server.url.href}0/q`);
    const receive = () => path.receive({ QueueUrl: "q", MaxNumberOfMessages: 10 }, never);
    return { path, receive, requests, [Symbol.asyncDispose]: () => server.stop(true) };
  }

  const fail =
    (status: number, code: string, headers = {}) =>
    () =>
      Response.json({ __type: `com.amazonaws.sqs#${code}`, message: "as told" }, { status, headers });
  const empty = () => Response.json({});

  test.each([
    ["an internal error", fail(500, "InternalError")],
    ["throttling", fail(400, "RequestThrottled")],
    ["status 429", fail(429, "Whatever")],
    [
      "a code in a header",
      () => Response.json({}, { status: 400, headers: { "x-amzn-errortype": "ThrottlingException:http://x" } }),
    ],
    ["a code of another shape", () => Response.json({ code: "RequestTimeout" }, { status: 400 })],
    ["an answer that is no JSON", () => new Response('{"Messages":[')],
  ])("asks again after %s", async (_, first) => {
    await using server = scripted(first, empty);
    expect(await server.receive()).toEqual({});
    expect(server.requests).toHaveLength(2);
  });

  test("gives up after three tries, with the service's code", async () => {
    await using server = scripted(fail(503, "ServiceUnavailable"));
    await expect(server.receive()).rejects.toMatchObject({ name: "ServiceUnavailable", message: "as told" });
    expect(server.requests).toHaveLength(3);
  });

  test.each(["QueueDoesNotExist", "AccessDeniedException", "InvalidParameterValue"])(
    "does not ask again after %s",
    async (code) => {
      await using server = scripted(fail(400, code));
      await expect(server.receive()).rejects.toMatchObject({ name: code });
      expect(server.requests).toHaveLength(1);
    },
  );

  test("puts its clock right by the server's when a signature is refused for its time, and keeps it so", async () => {
    const ahead = new Date(Date.now() + 3_600_000);
    const refused = fail(403, "InvalidSignatureException", { date: ahead.toUTCString() });
    await using server = scripted(refused, empty);
    await server.receive();
    await server.receive();
    const dates = server.requests.map(({ headers }) => headers.get("x-amz-date") ?? "");
    const hours = dates.map((date) => Number(date.slice(9, 11)));
    expect(hours[1]).toBe(ahead.getUTCHours());
    expect(hours[2]).toBe(ahead.getUTCHours());
    expect(hours[0]).not.toBe(hours[1] as number);
  });

  test.each([
    ["an empty body", () => new Response("")],
    ["null", () => new Response("null")],
    ["a list", () => new Response("[]")],
    ["a number", () => new Response("5")],
    ["a page", () => new Response("<html></html>")],
    ["a redirect to another server", () => Response.redirect("http://127.0.0.1:1/", 307)],
  ])("fails, after three attempts at most, if the response is %s", async (_, answer) => {
    await using server = scripted(answer);
    await expect(server.receive()).rejects.toThrow(/not in the protocol of SQS|JSON Parse error|no reason given/);
    expect(server.requests.length).toBeWithin(1, 4);
  });

  test("lists that are null are empty", async () => {
    await using server = scripted(() => Response.json({ Messages: null }));
    expect(await server.receive()).toEqual({});
  });

  test("stops trying when aborted", async () => {
    await using server = scripted(fail(500, "InternalError"));
    const stopping = new AbortController();
    const receiving = server.path.receive({ QueueUrl: "q" }, stopping.signal);
    stopping.abort();
    await expect(receiving).rejects.toThrow();
    expect(server.requests.length).toBeLessThanOrEqual(1);
  });
});
