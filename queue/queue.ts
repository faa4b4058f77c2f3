import {
  GetQueueAttributesCommand,
  type MessageSystemAttributeName,
  type SQSClient,
  type Message as SqsMessage,
} from "@aws-sdk/client-sqs";
import { createClient, isFifo, type QueueAddress } from "./client.ts";
import type { DeadLetter, Failure, Message } from "./message.ts";
import { createRequest, type OnRequest, type Request } from "./request.ts";
import { fetchRequests, sdkRequests } from "./requests.ts";
import { deadLetterEntry, groupBySize, redriveEntry, sendAll, sendBatch, toFailures } from "./send.ts";

/** Numbers of messages. SQS reports approximate values. */
export interface Depth {
  visible: number;
  inFlight: number;
  deadLetter: number;
}

/** SQS limits each call to ten messages. Every call rejects if the whole request fails. */
export interface Queue {
  readonly address: QueueAddress;
  /**
   * Receives at most ten messages, or none if none arrive within the wait time. They are invisible to other consumers for the
   * given visibility timeout, by default that of the queue. Rejects when `signal` aborts.
   */
  receive(waitTimeSeconds: number, signal: AbortSignal, visibilityTimeoutSeconds?: number): Promise<Message[]>;
  /** @returns the messages that were not deleted */
  delete(messages: readonly Message[]): Promise<Failure[]>;
  /**
   * Makes the messages invisible for `timeoutSeconds` from now; 0 returns them to the queue.
   * @returns the messages whose timeout was not changed
   */
  changeVisibility(messages: readonly Message[], timeoutSeconds: number): Promise<Failure[]>;
  /** Copies messages to the dead-letter queue, bodies unchanged. @returns the messages that may not have been copied */
  deadLetter(rejected: readonly DeadLetter[]): Promise<Failure[]>;
  /** Sends dead letters to the queue, without reason and errors. @returns the messages that may not have been sent */
  redrive(deadLetters: readonly Message[]): Promise<Failure[]>;
  /** Sends message bodies. A FIFO queue needs one group id per body. Rejects if any message may not have been sent. */
  send(bodies: readonly string[], groupIds?: readonly string[]): Promise<void>;
  depth(): Promise<Depth>;
  /** Closes the connections of this queue. */
  close(): void;
}

/** A receive is aborted five seconds after its wait time: by then the response is lost or the server hangs. */
const RECEIVE_GRACE_MS = 5_000;
const SYSTEM_ATTRIBUTES: MessageSystemAttributeName[] = ["SentTimestamp", "AWSTraceHeader", "MessageGroupId"];

/**
 * Creates the queue client of one thread. It connects with the first request.
 *
 * @param onRequest is called after every request
 */
export function openQueue(address: QueueAddress, onRequest: OnRequest = () => {}): Queue {
  const client = createClient(address);
  const request = createRequest(client, onRequest);
  const QueueUrl = address.url;
  const fifo = isFifo(QueueUrl);
  // The signer of `fetchRequests` does not support a path.
  const hasPath = address.endpoint !== undefined && new URL(address.endpoint).pathname !== "/";
  const requests = address.client === "sdk" || hasPath ? sdkRequests(client) : fetchRequests(client, QueueUrl);

  async function receive(waitTimeSeconds: number, signal: AbortSignal, VisibilityTimeout?: number): Promise<Message[]> {
    const input = {
      QueueUrl,
      MaxNumberOfMessages: 10,
      WaitTimeSeconds: waitTimeSeconds,
      VisibilityTimeout,
      MessageSystemAttributeNames: SYSTEM_ATTRIBUTES,
      // The sender's attributes are copied to the dead-letter queue.
      MessageAttributeNames: ["All"],
      // If the response is lost, the retry returns the same messages. Without this id, SQS would block their message groups.
      ...(fifo && { ReceiveRequestAttemptId: crypto.randomUUID() }),
    };
    const deadlineMs = waitTimeSeconds * 1000 + RECEIVE_GRACE_MS;
    const send = (_: SQSClient, { abortSignal }: { abortSignal: AbortSignal }) => requests.receive(input, abortSignal);
    return ((await request("ReceiveMessage", send, deadlineMs, signal)).Messages ?? []).map(toMessage);
  }

  async function deleteMessages(messages: readonly Message[]): Promise<Failure[]> {
    if (messages.length === 0) return [];
    const Entries = messages.map(({ receiptHandle }, index) => ({ Id: `${index}`, ReceiptHandle: receiptHandle }));
    const { Failed } = await request("DeleteMessageBatch", (_, { abortSignal }) =>
      requests.delete({ QueueUrl, Entries }, abortSignal),
    );
    return toFailures(messages, Failed);
  }

  async function changeVisibility(messages: readonly Message[], timeoutSeconds: number): Promise<Failure[]> {
    if (messages.length === 0) return [];
    const Entries = messages.map(({ receiptHandle }, index) => ({
      Id: `${index}`,
      ReceiptHandle: receiptHandle,
      VisibilityTimeout: timeoutSeconds,
    }));
    const { Failed } = await request("ChangeMessageVisibilityBatch", (_, { abortSignal }) =>
      requests.changeVisibility({ QueueUrl, Entries }, abortSignal),
    );
    return toFailures(messages, Failed);
  }

  async function deadLetter(rejected: readonly DeadLetter[]): Promise<Failure[]> {
    const messages = rejected.map(({ message }) => message);
    const { deadLetterUrl } = address;
    if (!deadLetterUrl) return messages.map((message) => ({ message, reason: "the queue has no dead-letter queue" }));
    const entries = rejected.map((each, index) => deadLetterEntry(each, index, fifo));
    return await sendAll(request, deadLetterUrl, messages, entries);
  }

  async function redrive(deadLetters: readonly Message[]): Promise<Failure[]> {
    const entries = deadLetters.map((message, index) => redriveEntry(message, index, fifo));
    return await sendAll(request, QueueUrl, deadLetters, entries);
  }

  async function send(bodies: readonly string[], groupIds: readonly string[] = []) {
    const entries = bodies.map((MessageBody, index) => ({
      Id: `${index}`,
      MessageBody,
      // Random: a retry of this request does not send a second message, but sending an equal body again does.
      ...(fifo && { MessageGroupId: groupIds[index], MessageDeduplicationId: crypto.randomUUID() }),
    }));
    for (const group of groupBySize(entries)) {
      const failed = await sendBatch(request, QueueUrl, group);
      const [first] = failed;
      if (first) throw new Error(`Cannot send ${failed.length} messages: ${first.Message ?? first.Code}`);
    }
  }

  async function depth(): Promise<Depth> {
    const [[visible = 0, inFlight = 0], [deadLetter = 0]] = await Promise.all([
      count(request, QueueUrl, ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]),
      count(request, address.deadLetterUrl, ["ApproximateNumberOfMessages"]),
    ]);
    return { visible, inFlight, deadLetter };
  }

  const close = () => client.destroy();
  return { address, receive, delete: deleteMessages, changeVisibility, deadLetter, redrive, send, depth, close };
}

const toMessage = ({ MessageId, Body, ReceiptHandle, Attributes, MessageAttributes }: SqsMessage): Message => ({
  id: MessageId ?? "",
  body: Body ?? "",
  receiptHandle: ReceiptHandle ?? "",
  sentAtMs: Number(Attributes?.SentTimestamp ?? Date.now()),
  attributes: MessageAttributes ?? {},
  groupId: Attributes?.MessageGroupId,
  traceHeader: Attributes?.AWSTraceHeader,
});

type CountName = "ApproximateNumberOfMessages" | "ApproximateNumberOfMessagesNotVisible";

async function count(request: Request, url: string | undefined, AttributeNames: CountName[]): Promise<number[]> {
  if (!url) return AttributeNames.map(() => 0);
  const command = new GetQueueAttributesCommand({ QueueUrl: url, AttributeNames });
  const { Attributes } = await request("GetQueueAttributes", (sqs, options) => sqs.send(command, options));
  return AttributeNames.map((name) => Number(Attributes?.[name] ?? 0));
}
