/** Orders, and SQS by plain, unsigned `fetch` in the AWS JSON protocol: sending them costs the machine little. */

import type { QueueAddress } from "../../queue/client.ts";
import { type GeneratedMessage, generate, isOrder } from "../generator.ts";

export type Sqs = ReturnType<typeof connectSqs>;

/** Eight batches at a time keep the emulator busy. */
const SENDERS = 8;
const COUNTS = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"];

/** @returns valid orders up to now, except for the `faults`, in percent */
export function generateOrders(setting: { seed: number; users: number; days: number }, faults = {}) {
  const mix = { mismatch: 0, invalid: 0, duplicates: 0, onValueMismatch: "correct" as const, ...faults };
  return generate({ ...mix, ...setting, nowMs: Date.now() });
}

/** @returns the next `count` messages */
export const take = (messages: Iterator<GeneratedMessage, never>, count: number): GeneratedMessage[] =>
  Array.from({ length: count }, () => messages.next().value);

/** @returns the requests to one queue of an emulator, which checks no signatures. They reject if the emulator refuses them. */
export function connectSqs({ endpoint = "", url: QueueUrl }: Pick<QueueAddress, "endpoint" | "url">) {
  async function request(action: string, input: object) {
    const headers = { "content-type": "application/x-amz-json-1.0", "x-amz-target": `AmazonSQS.${action}` };
    const response = await fetch(endpoint, { method: "POST", headers, body: JSON.stringify({ QueueUrl, ...input }) });
    const text = await response.text();
    if (!response.ok) throw new Error(`${action} failed with ${response.status}: ${text}`);
    return JSON.parse(text || "{}");
  }

  /** Sends at most ten bodies. */
  async function send(bodies: string[]) {
    const Entries = bodies.map((MessageBody, index) => ({ Id: `${index}`, MessageBody }));
    const { Failed = [] } = await request("SendMessageBatch", { Entries });
    if (Failed.length > 0) throw new Error(`The emulator refused ${Failed.length} messages: ${Failed[0].Message}`);
  }

  /** Sends `count` messages as fast as the emulator accepts them. @returns how many orders are to be counted */
  async function fill(messages: Iterator<GeneratedMessage, never>, count: number): Promise<number> {
    let [left, orders] = [count, 0];
    async function sendBatches() {
      while (left > 0) {
        const batch = take(messages, Math.min(10, left));
        left -= batch.length;
        orders += batch.filter(isOrder).length;
        await send(batch.map(({ body }) => body));
      }
    }
    await Promise.all(Array.from({ length: SENDERS }, sendBatches));
    return orders;
  }

  /** @returns the number of messages in the queue, visible or in flight */
  async function left(): Promise<number> {
    const { Attributes } = await request("GetQueueAttributes", { AttributeNames: COUNTS });
    return COUNTS.reduce((sum, name) => sum + Number(Attributes[name]), 0);
  }

  /** @returns the number of requests that consumers have sent */
  const requests = async (): Promise<number> => Number(await (await fetch(`${endpoint}/requests`)).text());

  return { request, send, fill, left, requests };
}
