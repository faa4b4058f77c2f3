/** SQS as plain, unsigned `fetch` in the AWS JSON protocol: what the bench sends itself costs the machine little. */

import type { QueueAddress } from "../../queue/client.ts";
import { type GeneratedMessage, isOrder } from "../generator.ts";
import { take } from "./orders.ts";

export type Sqs = ReturnType<typeof connectSqs>;

/** Eight batches in flight keep the emulator busy. */
const SENDERS = 8;
const COUNTS = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"];

/** One queue of an emulator, which checks no signature. */
export function connectSqs({ endpoint = "", url: QueueUrl }: QueueAddress) {
  async function request(action: string, input: object) {
    const headers = { "content-type": "application/x-amz-json-1.0", "x-amz-target": `AmazonSQS.${action}` };
    const response = await fetch(endpoint, { method: "POST", headers, body: JSON.stringify({ QueueUrl, ...input }) });
    const text = await response.text();
    if (!response.ok) throw new Error(`${action} answered ${response.status}: ${text}`);
    return JSON.parse(text || "{}");
  }

  /** At most ten bodies. */
  async function send(bodies: string[]) {
    if (bodies.length === 1) return await request("SendMessage", { MessageBody: bodies[0] });
    const Entries = bodies.map((MessageBody, index) => ({ Id: `${index}`, MessageBody }));
    const { Failed = [] } = await request("SendMessageBatch", { Entries });
    if (Failed.length > 0) throw new Error(`The emulator refused ${Failed.length} messages: ${Failed[0].Message}`);
  }

  /** Sends so many of the messages as fast as the queue takes them. Answers how many orders are to be counted. */
  async function fill(messages: Iterator<GeneratedMessage, never>, count: number): Promise<number> {
    let left = count;
    let orders = 0;
    async function sendBatches() {
      while (left > 0) {
        const size = Math.min(10, left);
        left -= size;
        const batch = take(messages, size);
        orders += batch.filter(isOrder).length;
        await send(batch.map(({ body }) => body));
      }
    }
    await Promise.all(Array.from({ length: SENDERS }, sendBatches));
    return orders;
  }

  /** Messages in the queue, received or not. */
  async function left(): Promise<number> {
    const { Attributes } = await request("GetQueueAttributes", { AttributeNames: COUNTS });
    return COUNTS.reduce((sum, name) => sum + Number(Attributes[name]), 0);
  }

  /** How many requests consumers have sent. */
  async function requests(): Promise<number> {
    return ((await (await fetch(`${endpoint}/requests`)).json()) as { requests: number }).requests;
  }

  return { request, send, fill, left, requests };
}
