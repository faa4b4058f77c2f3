/** The program with servers that lose their queues, finish abandoned receives, are slow, or are no SQS at all. */

import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync } from "node:fs";
import {
  CreateQueueCommand,
  DeleteQueueCommand,
  GetQueueAttributesCommand,
  SetQueueAttributesCommand,
} from "@aws-sdk/client-sqs";
import { createReceiveLimit } from "../consumer/receive-limit.ts";
import { createClient, type QueueAddress } from "../queue/client.ts";
import { openQueue } from "../queue/queue.ts";
import { locateQueue } from "../queue/setup.ts";
import { watchQueue } from "../queue/watch.ts";
import { type FaultProxy, startFaultProxy } from "./faults/proxy.ts";
import { createRandom } from "./faults/random.ts";
import { body } from "./support/orders.ts";
import { AWS, eventsOf, type Program, startProgram, temporaryFolder } from "./support/program.ts";
import { startEmulatorProcess } from "./support/queues.ts";
import { waitFor } from "./support/wait-for.ts";

// Real processes on a busy machine: bun's five seconds would fail a test that is only slow.
setDefaultTimeout(60_000);

type EmulatorProcess = Awaited<ReturnType<typeof startEmulatorProcess>>;
let emulator: EmulatorProcess;
let proxy: FaultProxy;
beforeAll(async () => {
  emulator = await startEmulatorProcess();
  proxy = await startFaultProxy(emulator.endpoint, createRandom(1), new Set());
});
afterAll(async () => {
  proxy.stop();
  await emulator.stop();
});

/** Forwards to the emulator the requests for which `respond` returns nothing. */
const startServer = (respond: (action: string) => Response | undefined | Promise<Response | undefined>) =>
  Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    fetch: async (request) => {
      const { headers } = request;
      const response = await respond(headers.get("x-amz-target")?.split(".").at(-1) ?? "");
      return response ?? fetch(emulator.endpoint, { method: "POST", headers, body: await request.text() });
    },
  });

const ten = () => Array.from({ length: 10 }, () => body());
const locate = (name: string, { endpoint } = emulator) => locateQueue({ name, endpoint, embedded: true });
const client = () => createClient({ endpoint: emulator.endpoint, embedded: true });

/** The program with an embedded store of its own. */
const startOn = (endpoint: string, env: Record<string, string>) =>
  startProgram({ ...AWS, AWS_ENDPOINT_URL: endpoint, CONSUMER_WORKERS: "2", DATA_DIR: temporaryFolder(), ...env });

const totalOrders = async (program: Program) =>
  ((await (await program.get("/stats/global")).json()) as { total_orders: number }).total_orders;
const health = async (program: Program) => {
  const response = await program.get("/health");
  return (await response.json()) as { status: string; problems?: string[]; services: { queue: string } };
};
const reasonsOf = (program: Program, event: string) =>
  eventsOf(program.output()).flatMap((line) => (line.event === event ? [`${JSON.stringify(line)}`] : []));

describe("a server that forgets its queues when it restarts", () => {
  async function restarted(
    env: (endpoint: string) => Record<string, string>,
    between: (first: EmulatorProcess) => Promise<void>,
  ) {
    const first = await startEmulatorProcess();
    await locate("lost", first);
    const program = await startOn(first.endpoint, env(first.endpoint));
    await first.stop();
    await waitFor("the outage", async () => (await health(program)).status === "unhealthy");
    const second = await startEmulatorProcess(new URL(first.endpoint).port);
    await between(second);
    await waitFor("the recovery", async () => (await health(program)).status === "healthy");
    await openQueue(await locate("lost", second)).send([...ten().slice(1), "{"]);
    await waitFor("the orders", async () => (await totalOrders(program)) === 9);
    const depth = async () => (await openQueue(await locate("lost", second)).depth()).deadLetter;
    await waitFor("the dead letter", async () => (await depth()) === 1);
    program.kill("SIGTERM");
    await program.exited;
    await second.stop();
    return program;
  }

  test("the queue is created again where it is given by name, with its dead-letter queue", async () => {
    const program = await restarted(
      () => ({ SQS_QUEUE_NAME: "lost" }),
      async () => {},
    );
    const reasons = reasonsOf(program, "polling_failed").join();
    expect(reasons).toContain("connection refused");
    expect(reasons).toContain("QueueDoesNotExist");
    expect(reasonsOf(program, "queue_changed")).toHaveLength(1);
  });

  test("the program waits for the queue where it is given by URL", async () => {
    const url = (endpoint: string) => ({ SQS_QUEUE_URL: `${endpoint}/000000000000/lost` });
    await restarted(url, async (second) => {
      await Bun.sleep(3_000); // long enough to create it
      const locating = locateQueue({
        name: "",
        url: `${second.endpoint}/000000000000/lost`,
        endpoint: second.endpoint,
        embedded: true,
      });
      await expect(locating).rejects.toThrow("QueueDoesNotExist");
      await locate("lost", second);
    });
  });
});

describe("a change of the queue is noticed:", () => {
  const attributesOf = async (QueueUrl: string) =>
    (await client().send(new GetQueueAttributesCommand({ QueueUrl, AttributeNames: ["All"] }))).Attributes ?? {};

  /** @returns the next address after `change` */
  async function changed(wanted: { name: string; url?: string }, change: (before: QueueAddress) => Promise<unknown>) {
    const queue = { ...wanted, endpoint: emulator.endpoint, embedded: true };
    const before = await locateQueue(queue);
    const { promise, resolve } = Promise.withResolvers<QueueAddress>();
    const ignore = { failed: () => {}, succeeded: () => {} };
    const stop = watchQueue(queue, before, () => false, ignore, resolve, 0);
    await change(before);
    return await promise.finally(stop);
  }

  test("a redrive policy that is added", async () => {
    const { QueueUrl: url = "" } = await client().send(new CreateQueueCommand({ QueueName: "added" }));
    const { deadLetterUrl = "" } = await locate("donor");
    const { QueueArn } = await attributesOf(deadLetterUrl);
    const RedrivePolicy = JSON.stringify({ deadLetterTargetArn: QueueArn, maxReceiveCount: 3 });
    const set = () => client().send(new SetQueueAttributesCommand({ QueueUrl: url, Attributes: { RedrivePolicy } }));
    expect((await changed({ name: "", url }, set)).deadLetterUrl).toBe(deadLetterUrl);
  });

  test("another visibility timeout", async () => {
    const set = ({ url: QueueUrl }: QueueAddress) =>
      client().send(new SetQueueAttributesCommand({ QueueUrl, Attributes: { VisibilityTimeout: "77" } }));
    expect(await changed({ name: "timeout" }, set)).toMatchObject({ visibilityTimeoutSeconds: 77 });
  });

  test("a dead-letter queue that is deleted, and created again where the queue is given by name", async () => {
    const address = await locate("beheaded");
    await client().send(new DeleteQueueCommand({ QueueUrl: address.deadLetterUrl }));
    expect(await locate("beheaded")).toEqual(address);
    expect(await attributesOf(address.deadLetterUrl ?? "")).toMatchObject({ MessageRetentionPeriod: "1209600" });
  });
});

test("health is degraded and names the dead-letter queue where only that is missing, and orders are counted", async () => {
  const address = await locate("headless");
  const program = await startOn(emulator.endpoint, { SQS_QUEUE_URL: address.url });
  await client().send(new DeleteQueueCommand({ QueueUrl: address.deadLetterUrl }));
  await waitFor("the problem", async () => (await health(program)).status === "degraded");
  expect(await health(program)).toMatchObject({
    services: { queue: "connected", consumers: "running" },
    problems: ["dead-letter queue headless-dlq: GetQueueAttributes failed: QueueDoesNotExist"],
  });
  await openQueue(address).send(ten());
  await waitFor("the orders", async () => (await totalOrders(program)) === 10);
  program.kill("SIGKILL");
  await program.exited;
});

test("/health names the queue that does not respond", async () => {
  let isSilent = false;
  await using server = startServer(async () => {
    if (isSilent) await new Promise(() => {});
    return undefined;
  });
  const program = await startOn(server.url.origin, { SQS_QUEUE_NAME: "silent" });
  isSilent = true;
  const problem = "queue silent: GetQueueAttributes failed: no response within 2 s";
  await waitFor("the problem", async () => (await health(program)).problems?.includes(problem));
  program.kill("SIGKILL");
  await program.exited;
});

test("a stop of an idle program leaves no receive that would hide messages sent later", async () => {
  const queue = openQueue(await locate("idle"));
  const DATA_DIR = temporaryFolder();
  const start = () => startOn(proxy.endpoint, { SQS_QUEUE_NAME: "idle", DATA_DIR });
  const first = await start();
  const stoppedAt = performance.now();
  first.kill("SIGTERM");
  expect(await first.exited).toBe(0);
  expect(performance.now() - stoppedAt).toBeLessThan(2_000);
  for (let batch = 0; batch < 4; batch++) await queue.send(ten());
  const second = await start();
  await waitFor("the orders", async () => (await totalOrders(second)) === 40, 5_000);
  second.kill("SIGTERM");
  await second.exited;
});

test("a server that handles receives of one second one after another has no pauses, and delivers nothing twice", async () => {
  const queue = openQueue(await locate("slow"));
  for (let batch = 0; batch < 10; batch++) await queue.send(ten());
  const { repeated } = proxy.deliveries;
  proxy.setReceiveMs(1_000);
  const program = await startOn(proxy.endpoint, { SQS_QUEUE_NAME: "slow" });
  // One loop needs ten seconds. 0.8 of its rate is 12.5 s, and the first receives wait for the start of the program.
  await waitFor("the orders", async () => (await totalOrders(program)) === 100, 15_000);
  expect(proxy.deliveries.repeated).toBe(repeated);
  proxy.setReceiveMs(0);
  program.kill("SIGKILL");
  await program.exited;
});

test("health is healthy within two seconds after an idle queue has recovered", async () => {
  await locate("recovering");
  const program = await startOn(proxy.endpoint, { SQS_QUEUE_NAME: "recovering" });
  proxy.faults.add("refused");
  const paused = async () => (await health(program)).problems?.join().includes("worker 2 is paused");
  await waitFor("both workers to be paused", paused);
  await Bun.sleep(3_000); // the longest pauses
  proxy.faults.delete("refused");
  await waitFor("the recovery", async () => (await health(program)).status === "healthy", 2_500);
  program.kill("SIGTERM");
  await program.exited;
});

test("/health and /events have the code of an error of SQS, and the log its text, which names accounts and roles", async () => {
  let denied = false;
  const message = "User: arn:aws:sts::123456789012:assumed-role/orders is not authorized";
  const error = { __type: "com.amazon.coral.service#AccessDeniedException", message };
  await using server = startServer(() => (denied ? Response.json(error, { status: 403 }) : undefined));
  const program = await startOn(server.url.origin, { SQS_QUEUE_NAME: "denied" });
  denied = true;
  const paused = async () => (await health(program)).problems?.join().includes("worker 1 is paused");
  await waitFor("worker 1 to be paused", paused);
  const { problems = [] } = await health(program);
  expect(problems).toContain("queue denied: GetQueueAttributes failed: AccessDeniedException");
  expect(problems).toContain("worker 1 is paused: ReceiveMessage failed: AccessDeniedException");
  expect(problems.join()).not.toContain("arn:");
  let events = "";
  for await (const chunk of (await program.get("/events")).body ?? []) {
    events += new TextDecoder().decode(chunk);
    if (events.includes("data:")) break;
  }
  expect(events).toContain("not counting: ReceiveMessage failed: AccessDeniedException");
  expect(events).not.toContain("arn:");
  for (const event of ["queue_unavailable", "polling_failed"])
    expect(reasonsOf(program, event).join()).toContain("arn:aws:sts::123456789012");
  program.kill("SIGKILL");
  await program.exited;
});

test("a server that does not end its responses is reported after the first deadline", async () => {
  const server = startServer((action) =>
    action === "ReceiveMessage" ? new Response(new ReadableStream({ start: (body) => body.enqueue("{") })) : undefined,
  );
  const program = await startOn(server.url.origin, { SQS_QUEUE_NAME: "endless" });
  const reported = async () => (await health(program)).problems?.join().includes("no response within 11 s");
  await waitFor("the problem", reported, 16_000);
  program.kill("SIGKILL");
  await program.exited;
  await server.stop(true);
});

describe("a server whose responses to a receive come at once", () => {
  test.each([
    ["{}", "healthy"],
    ["", "unhealthy"],
  ])("and are '%s' is polled a few times a second, and the program is %s", async (response, status) => {
    let receives = 0;
    await using server = startServer((action) => {
      if (action !== "ReceiveMessage") return;
      receives++;
      return new Response(response);
    });
    const program = await startOn(server.url.origin, { SQS_QUEUE_NAME: "instant" });
    await Bun.sleep(3_000); // long enough for thousands
    expect(receives).toBeWithin(3, 60);
    await waitFor(status, async () => (await health(program)).status === status);
    program.kill("SIGKILL");
    await program.exited;
  });
});

describe("createReceiveLimit()", () => {
  /** Receives until the number in flight is stable. @returns it, and the time of the last receive, ms */
  function receiveUntilStable(millisecondsOf: (inFlight: number) => number, limit = createReceiveLimit(16)) {
    let inFlight = 1;
    let ms = 0;
    for (let batch = 0; batch < 200; batch++) {
      ms = millisecondsOf(inFlight);
      limit.received(ms, 1_000, inFlight);
      inFlight = Math.min(inFlight + 1, limit.receives());
    }
    return { inFlight, ms, limit };
  }

  test.each([500, 2_000, 5_000])(
    "keeps two or three receives in flight at a server with one thread, %i ms each",
    (each) => {
      const { inFlight, ms, limit } = receiveUntilStable((inFlight) => each * inFlight);
      expect(inFlight).toBeWithin(2, 4);
      expect(ms).toBeLessThan(1_000 + limit.graceMs());
    },
  );

  test.each([2_000, 5_000])("two workers abandon no receive at a server with one thread, %i ms each", (each) => {
    const workers = [0, 1].map(() => ({ limit: createReceiveLimit(16), inFlight: 1 }));
    for (let batch = 0; batch < 200; batch++) {
      const ms = each * workers.reduce((sum, { inFlight }) => sum + inFlight, 0);
      for (const worker of workers) {
        expect(ms).toBeLessThan(1_000 + worker.limit.graceMs());
        worker.limit.received(ms, 1_000, worker.inFlight);
        worker.inFlight = Math.min(worker.inFlight + 1, worker.limit.receives());
      }
    }
  });

  test.each([10, 500, 2_000, 5_000])("keeps all in flight at a server with many threads, %i ms each", (each) => {
    expect(receiveUntilStable(() => each).inFlight).toBe(16);
  });

  test("halves when receives fail, and rises again", () => {
    const { limit } = receiveUntilStable(() => 10);
    for (const expected of [8, 4, 2, 1, 1]) {
      limit.failed(10, limit.receives());
      expect(limit.receives()).toBe(expected);
    }
    expect(receiveUntilStable(() => 10, limit).inFlight).toBe(16);
  });

  test("waits longer after a receive without a response, up to 25 s, and shorter when the server is fast again", () => {
    const limit = createReceiveLimit(16);
    for (const expected of [20_000, 25_000, 25_000]) {
      limit.failed(1_000 + limit.graceMs(), 1);
      expect(limit.graceMs()).toBe(expected);
    }
    limit.received(10, 0, 1);
    expect(limit.graceMs()).toBe(5_000);
  });

  test("falls with the size of the batches, and rises again", () => {
    const limit = createReceiveLimit(16);
    limit.received(10, 10 * 1024 * 1024, 1);
    expect(limit.receives()).toBe(1);
    for (let batch = 0; batch < 200; batch++) limit.received(10, 1_000, 1);
    expect(limit.receives()).toBe(16);
  });
});

test("600 messages of 1 MB are counted within 400 MiB", async () => {
  const padding = "x".repeat(1024 * 1024 - 2_000);
  // Never empty, because messages of a response that the program did not wait for would be missing.
  await using server = startServer(async (action) => {
    if (action === "DeleteMessageBatch") return Response.json({ Successful: [], Failed: [] });
    if (action !== "ReceiveMessage") return;
    const Messages = Array.from({ length: 10 }, () => {
      const MessageId = crypto.randomUUID();
      return { MessageId, ReceiptHandle: MessageId, Body: body({ order_id: MessageId, padding }) };
    });
    return Response.json({ Messages });
  });
  const program = await startOn(server.url.origin, { SQS_QUEUE_NAME: "large", CONSUMER_WORKERS: "1" });
  await waitFor("the orders", async () => (await totalOrders(program)) >= 600, 50_000);
  const peak = /VmHWM:\s+(\d+) kB/.exec(readFileSync(`/proc/${program.pid}/status`, "utf8"))?.[1];
  expect(Number(peak) / 1024).toBeLessThan(400);
  program.kill("SIGKILL");
  await program.exited;
});
