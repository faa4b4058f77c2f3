/**
 * Consumers that drain the queue instead of the program, with the same environment and as many parallel receives. The loops
 * import nothing of the program, and each only what it uses: a cold start counts all that is loaded.
 */

import { isMainThread, Worker, workerData } from "node:worker_threads";
import type { Message } from "@aws-sdk/client-sqs";

const { SQS_QUEUE_URL: QueueUrl = "", AWS_ENDPOINT_URL: endpoint = "", REDIS_URL: url = "" } = Bun.env;
const RECEIVE = { MaxNumberOfMessages: 10, WaitTimeSeconds: 20 };

/** The default client but for its handler: with the default one, node:http, the loop needs a quarter to a third more CPU. */
async function createClient() {
  const { SQSClient } = await import("@aws-sdk/client-sqs");
  const { FetchHttpHandler } = await import("@smithy/fetch-http-handler");
  return new SQSClient({ endpoint, requestHandler: new FetchHttpHandler() });
}

/** Receives and deletes by the AWS SDK, nothing else. */
async function sdkLoop(receives: number) {
  const { DeleteMessageBatchCommand, ReceiveMessageCommand } = await import("@aws-sdk/client-sqs");
  const client = await createClient();
  await loop(receives, async () => {
    const { Messages = [] } = await client.send(new ReceiveMessageCommand({ QueueUrl, ...RECEIVE }));
    const Entries = entriesOf(Messages);
    if (Entries.length > 0) await client.send(new DeleteMessageBatchCommand({ QueueUrl, Entries }));
  });
}

/** The same by `fetch`, without signatures and checks: the limit of this machine and its emulator. */
async function fetchLoop(receives: number) {
  const { connectSqs } = await import("../sqs.ts");
  const { request } = connectSqs({ endpoint, url: QueueUrl });
  await loop(receives, async () => {
    const { Messages = [] } = await request("ReceiveMessage", RECEIVE);
    if (Messages.length > 0) await request("DeleteMessageBatch", { Entries: entriesOf(Messages) });
  });
}

/** The work of the program, with its own validation and store. */
async function sqsConsumer(receives: number) {
  const { Consumer } = await import("sqs-consumer");
  const { validateOrder } = await import("../../../consumer/order.ts");
  const { openStore } = await import("../../../store/open.ts");
  const store = await openStore({ kind: "redis", url });
  async function handleMessageBatch(messages: Message[]) {
    const results = messages.map(({ Body = "" }) => validateOrder(Body, "correct"));
    await store.record(results.flatMap((result) => (result.outcome === "rejected" ? [] : [result.order])));
    return messages;
  }
  const options = { queueUrl: QueueUrl, sqs: await createClient(), batchSize: 10, handleMessageBatch };
  for (let instance = 0; instance < receives; instance++) {
    const consumer = Consumer.create(options);
    consumer.on("error", (error) => {
      console.error(error);
      process.exit(1);
    });
    consumer.start();
  }
}

const entriesOf = (messages: Message[]) =>
  messages.map(({ ReceiptHandle }, index) => ({ Id: `${index}`, ReceiptHandle }));

async function loop(count: number, poll: () => Promise<void>) {
  async function receiveLoop() {
    for (;;) await poll();
  }
  await Promise.all(Array.from({ length: count }, receiveLoop));
}

const CONSUMERS = { sdkLoop, fetchLoop, sqsConsumer };

async function start(name: keyof typeof CONSUMERS) {
  if (!isMainThread) return await CONSUMERS[name](workerData);
  const [workers, concurrency] = [Number(Bun.env.CONSUMER_WORKERS), Number(Bun.env.CONSUMER_CONCURRENCY)];
  // sqs-consumer is at its best in a single thread with all instances: on two cores 2 × 16 drain no faster than 1 × 32 for 40 %
  // more CPU; 1 × 16 is slower, 1 × 64 within 5 % of it.
  const threads = name === "sqsConsumer" ? 1 : workers;
  for (let thread = 0; thread < threads; thread++) {
    const receives = (workers * concurrency) / threads;
    const worker = new Worker(new URL(import.meta.url), { argv: [name], workerData: receives });
    // With a thread less the competitor would be measured as slow: exit instead.
    worker.on("exit", () => process.exit(1));
  }
}

await start(process.argv[2] as keyof typeof CONSUMERS);
