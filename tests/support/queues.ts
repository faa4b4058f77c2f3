import { join } from "node:path";
import { GetQueueAttributesCommand, SetQueueAttributesCommand } from "@aws-sdk/client-sqs";
import { startFauxqs } from "fauxqs";
import { createClient } from "../../queue/client.ts";
import { type Emulator, startEmulator } from "../../queue/emulator.ts";
import type { Message } from "../../queue/message.ts";
import { openQueue, type Queue } from "../../queue/queue.ts";
import { locateQueue } from "../../queue/setup.ts";
import { temporaryFolder } from "./program.ts";
import { freePort } from "./redis-server.ts";
import { waitFor } from "./wait-for.ts";

let next = 0;

/** A real SQS emulator of this test file's own, on a free port of loopback. */
export async function startTestEmulator(dir = join(temporaryFolder(), "queue")): Promise<Emulator> {
  return await startEmulator({ port: 0, dir }, (error) => {
    throw error;
  });
}

/** The same in memory and in this thread, for tests that send many messages. */
export async function startFastEmulator(): Promise<Emulator> {
  const server = await startFauxqs({ port: 0, listenHost: "127.0.0.1", host: "", logger: false });
  return { endpoint: `http://127.0.0.1:${server.port}`, stop: () => server.stop() };
}

/** The same in a process of its own, for whole programs that take many. */
export async function startEmulatorProcess(port = `${freePort()}`) {
  const command = [process.execPath, join(import.meta.dir, "emulator-process.ts"), port];
  const child = Bun.spawn(command, { stdout: "ignore", stderr: "inherit" });
  const endpoint = `http://127.0.0.1:${port}`;
  const isUp = async () => (await fetch(`${endpoint}/health`).catch(() => undefined))?.ok;
  await waitFor("the emulator", isUp, 30_000);
  async function stop() {
    child.kill("SIGKILL");
    await child.exited;
  }
  /** Messages received since the start, from all queues; one that is received twice counts twice. */
  const deliveries = async () => Number(await (await fetch(`${endpoint}/deliveries`)).text());
  return { endpoint, deliveries, stop };
}

/** A proxy of an emulator; `onSend` may return the response to a batch of messages. */
export function startSendProxy(
  { endpoint }: Emulator,
  onSend: (body: string) => Response | undefined | Promise<Response | undefined>,
) {
  return Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    async fetch(request) {
      const body = await request.text();
      const isSend = request.headers.get("x-amz-target") === "AmazonSQS.SendMessageBatch";
      const response = isSend ? await onSend(body) : undefined;
      return response ?? (await fetch(endpoint, { method: "POST", headers: request.headers, body }));
    },
  });
}

/** A queue that no other test uses, with its dead-letter queue; set up otherwise where the test needs it. */
export async function freshQueue(
  { endpoint }: Emulator,
  attributes: Record<string, string> = {},
  maxReceiveCount = 5,
  kind: "" | ".fifo" = "",
): Promise<Queue> {
  const address = await locateQueue({ name: `orders-${next++}-${process.pid}${kind}`, endpoint, embedded: true });
  const client = createClient(address);
  const { Attributes } = await client.send(
    new GetQueueAttributesCommand({ QueueUrl: address.url, AttributeNames: ["RedrivePolicy"] }),
  );
  const RedrivePolicy = JSON.stringify({ ...JSON.parse(Attributes?.RedrivePolicy ?? ""), maxReceiveCount });
  await client.send(
    new SetQueueAttributesCommand({ QueueUrl: address.url, Attributes: { ...attributes, RedrivePolicy } }),
  );
  client.destroy();
  return openQueue(address);
}

/** The same as a FIFO queue. */
export const freshFifoQueue = (emulator: Emulator) => freshQueue(emulator, {}, 5, ".fifo");

/** Whether nothing is left in a queue, in flight or visible. */
export async function isEmpty(queue: Queue): Promise<boolean> {
  const { visible, inFlight } = await queue.depth();
  return visible + inFlight === 0;
}

/** Takes everything that is visible, deleting it. */
export async function takeAll(queue: Queue): Promise<Message[]> {
  const all: Message[] = [];
  for (;;) {
    const messages = await queue.receive(0, new AbortController().signal);
    if (messages.length === 0) return all;
    all.push(...messages);
    await queue.delete(messages);
  }
}

/** The dead-letter queue of a queue, as a queue. */
export function deadLettersOf(queue: Queue): Queue {
  const { deadLetterUrl, ...address } = queue.address;
  return openQueue({ ...address, url: deadLetterUrl ?? "" });
}

/** Makes visible what dead processes held; the visibility timeout would, half a minute later. Not in the embedded queue. */
export async function releaseAll({ address, changeVisibility }: Queue) {
  const response = await fetch(`${address.endpoint}/_fauxqs/queues/${address.url.split("/").at(-1)}`);
  const { messages } = (await response.json()) as { messages: { inflight: { receiptHandle: string }[] } };
  const handles = messages.inflight.map(({ receiptHandle }) => ({
    receiptHandle,
    id: "",
    body: "",
    sentAtMs: 0,
    attributes: {},
  }));
  for (let at = 0; at < handles.length; at += 10) await changeVisibility(handles.slice(at, at + 10), 0);
}
