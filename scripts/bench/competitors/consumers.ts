/** Consumers that drain the queue instead of the program, with the same environment and as many parallel receives. */

import { isMainThread, Worker, workerData } from "node:worker_threads";
import { DeleteMessageBatchCommand, type Message, ReceiveMessageCommand } from "@aws-sdk/client-sqs";
import { Consumer } from "sqs-consumer";
import { readConfig } from "../../../config.ts";
import { validateOrder } from "../../../consumer/order.ts";
import { createClient, type QueueAddress } from "../../../queue/client.ts";
import { locateQueue } from "../../../queue/setup.ts";
import { openStore, type StoreAddress } from "../../../store/open.ts";
import { connectSqs } from "../sqs.ts";

interface Options {
  address: QueueAddress;
  store: StoreAddress;
  /** Parallel receives in this thread. */
  receives: number;
}

const RECEIVE = { MaxNumberOfMessages: 10, WaitTimeSeconds: 20 };

/** Receives and deletes by the AWS SDK, nothing else. */
async function sdkLoop({ address, receives }: Options) {
  const client = createClient(address);
  const QueueUrl = address.url;
  await loop(receives, async () => {
    const { Messages = [] } = await client.send(new ReceiveMessageCommand({ QueueUrl, ...RECEIVE }));
    const Entries = entriesOf(Messages);
    if (Entries.length > 0) await client.send(new DeleteMessageBatchCommand({ QueueUrl, Entries }));
  });
}

/** The same by `fetch`, without signatures and checks: the limit of this machine and its emulator. */
async function fetchLoop({ address, receives }: Options) {
  const { request } = connectSqs(address);
  await loop(receives, async () => {
    const { Messages = [] } = await request("ReceiveMessage", RECEIVE);
    if (Messages.length > 0) await request("DeleteMessageBatch", { Entries: entriesOf(Messages) });
  });
}

/** The work of the program, with its own validation and store. */
async function sqsConsumer({ address, store: storeAddress, receives }: Options) {
  const store = await openStore(storeAddress);
  async function handleMessageBatch(messages: Message[]) {
    const results = messages.map(({ Body = "" }) => validateOrder(Body, "correct"));
    await store.record(results.flatMap((result) => (result.outcome === "rejected" ? [] : [result.order])));
    return messages;
  }
  const options = { queueUrl: address.url, sqs: createClient(address), batchSize: 10, handleMessageBatch };
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
  const { queue, store, consumer } = readConfig(Bun.env);
  const address = await locateQueue({ ...queue, embedded: false });
  // sqs-consumer is at its best in a single thread with all instances: on two cores 2 × 16 drain no faster than 1 × 32 for 40 %
  // more CPU; 1 × 16 is slower, 1 × 64 within 5 % of it.
  const threads = name === "sqsConsumer" ? 1 : consumer.workers;
  const options: Options = { address, store, receives: (consumer.workers * consumer.concurrency) / threads };
  for (let thread = 0; thread < threads; thread++) {
    const worker = new Worker(new URL(import.meta.url), { argv: [name], workerData: options });
    // With a thread less the competitor would be measured as slow: exit instead.
    worker.on("exit", () => process.exit(1));
  }
}

await start(process.argv[2] as keyof typeof CONSUMERS);
