/** What drains the queue instead of the program: told by the same environment, in as many threads as it has workers. */

import { isMainThread, Worker, workerData } from "node:worker_threads";
import { DeleteMessageBatchCommand, type Message, ReceiveMessageCommand } from "@aws-sdk/client-sqs";
import { Consumer } from "sqs-consumer";
import { readConfig } from "../../../config.ts";
import { judge } from "../../../consumer/order.ts";
import { createClient, type QueueAddress } from "../../../queue/client.ts";
import { locateQueue } from "../../../queue/setup.ts";
import { openStore, type StoreAddress } from "../../../store/open.ts";
import { connectSqs } from "../sqs.ts";

interface Options {
  address: QueueAddress;
  store: StoreAddress;
  /** Receives in flight in this thread. */
  lanes: number;
}

const RECEIVE = { MaxNumberOfMessages: 10, WaitTimeSeconds: 20 };

/** Receives and deletes by the AWS SDK, nothing else. */
async function sdkLoop({ address, lanes }: Options) {
  const client = createClient(address);
  const QueueUrl = address.url;
  await loop(lanes, async () => {
    const { Messages = [] } = await client.send(new ReceiveMessageCommand({ QueueUrl, ...RECEIVE }));
    const Entries = entriesOf(Messages);
    if (Entries.length > 0) await client.send(new DeleteMessageBatchCommand({ QueueUrl, Entries }));
  });
}

/** The same by `fetch`, without a signature or a check: the limit of this machine and its emulator. */
async function fetchLoop({ address, lanes }: Options) {
  const { request } = connectSqs(address);
  await loop(lanes, async () => {
    const { Messages = [] } = await request("ReceiveMessage", RECEIVE);
    if (Messages.length > 0) await request("DeleteMessageBatch", { Entries: entriesOf(Messages) });
  });
}

/** The work of the program, with its own judge and store. */
async function sqsConsumer({ address, store: storeAddress, lanes }: Options) {
  const store = await openStore(storeAddress);
  async function handleMessageBatch(messages: Message[]) {
    const judged = messages.map(({ Body = "" }) => judge(Body, "correct"));
    await store.record(judged.flatMap((each) => (each.outcome === "rejected" ? [] : [each.order])));
    return messages;
  }
  const options = { queueUrl: address.url, sqs: createClient(address), batchSize: 10, handleMessageBatch };
  for (let lane = 0; lane < lanes; lane++) {
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

async function loop(lanes: number, step: () => Promise<void>) {
  const lane = async () => {
    for (;;) await step();
  };
  await Promise.all(Array.from({ length: lanes }, lane));
}

/**
 * In how many threads, of so many workers. sqs-consumer is at its best in a single one with all the instances: on two
 * cores 2 × 16 drain no faster than 1 × 32 for 40 % more CPU; 1 × 16 is slower, 1 × 64 within 5 % of it.
 */
const CONSUMERS = {
  sdkLoop: { run: sdkLoop, threads: (workers: number) => workers },
  fetchLoop: { run: fetchLoop, threads: (workers: number) => workers },
  sqsConsumer: { run: sqsConsumer, threads: () => 1 },
};

async function start(name: keyof typeof CONSUMERS) {
  if (!isMainThread) return await CONSUMERS[name].run(workerData);
  const { queue, store, consumer } = readConfig(Bun.env);
  const address = await locateQueue({ ...queue, embedded: false });
  const threads = CONSUMERS[name].threads(consumer.workers);
  const options: Options = { address, store, lanes: (consumer.workers * consumer.concurrency) / threads };
  for (let thread = 0; thread < threads; thread++) {
    const worker = new Worker(new URL(import.meta.url), { argv: [name], workerData: options });
    // A side that limps on with a thread less would be measured as a slow one.
    worker.on("exit", () => process.exit(1));
  }
}

await start(process.argv[2] as keyof typeof CONSUMERS);
