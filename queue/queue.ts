import {
  GetQueueAttributesCommand,
  type MessageSystemAttributeName,
  type SQSClient,
  type Message as SqsMessage,
} from "@aws-sdk/client-sqs";
import { messageOf } from "../errors.ts";
import { pluralize } from "../text.ts";
import { createClient, isFifo, type QueueAddress } from "./client.ts";
import type { DeadLetter, Failure, Message } from "./message.ts";
import { createRequest, NOT_SQS, type OnRequest, type Request } from "./request.ts";
import { fetchRequests, sdkRequests } from "./requests.ts";
import { deadLetterEntry, groupBySize, redriveEntry, sendAll, sendBatch, toFailures } from "./send.ts";

/** Numbers of messages. SQS reports approximate values. */
export interface Depth {
  visible: number;
  inFlight: number;
  /** 0 without a dead-letter queue; undefined if it cannot be read, for the reason `deadLetterProblem`. */
  deadLetter: number | undefined;
  deadLetterProblem?: string;
}

type OnDropped = (message: Message, attributes: string[]) => void;

/** SQS limits each call to ten messages. Every call rejects if the whole request fails. */
export interface Queue {
  readonly address: QueueAddress;
  /**
   * Receives at most ten messages, or none if none arrive within the wait time. They are invisible to other consumers for the
   * given visibility timeout, by default that of the address. Rejects when `signal` aborts, or when there is no response `graceMs`
   * after the wait time.
   */
  receive(
    waitTimeSeconds: number,
    signal: AbortSignal,
    visibilityTimeoutSeconds?: number,
    graceMs?: number,
  ): Promise<Message[]>;
  /** @returns the messages that were not deleted */
  delete(messages: readonly Message[]): Promise<Failure[]>;
  /**
   * Makes the messages invisible for `timeoutSeconds` from now; 0 returns them to the queue.
   * @returns the messages whose timeout was not changed
   */
  changeVisibility(messages: readonly Message[], timeoutSeconds: number): Promise<Failure[]>;
  /**
   * Copies messages to the dead-letter queue, bodies unchanged. `onDropped` is called with the names of attributes that do not fit.
   * @returns the messages that may not have been copied
   */
  deadLetter(rejected: readonly DeadLetter[], onDropped?: OnDropped): Promise<Failure[]>;
  /** Sends dead letters to the queue, without reason and errors. @returns the messages that may not have been sent */
  redrive(deadLetters: readonly Message[]): Promise<Failure[]>;
  /** Sends message bodies. A FIFO queue needs one group id per body. Rejects if any message may not have been sent. */
  send(bodies: readonly string[], groupIds?: readonly string[]): Promise<void>;
  /** Rejects with an Error that names the queue. */
  depth(deadlineMs?: number): Promise<Depth>;
  /** Uses another address from now on: the queue was created again, or its settings have changed. */
  relocate(address: QueueAddress): void;
  /** Closes the connections of this queue. */
  close(): void;
}

/** By five seconds after its wait time, the response to a receive is lost or the server hangs. */
const RECEIVE_GRACE_MS = 5_000;
const SYSTEM_ATTRIBUTES: MessageSystemAttributeName[] = [
  "SentTimestamp",
  "AWSTraceHeader",
  "MessageGroupId",
  "ApproximateReceiveCount",
];

/**
 * Creates the queue client of one thread. It connects with the first request.
 *
 * @param onRequest is called after every request
 */
export function openQueue(located: QueueAddress, onRequest: OnRequest = () => {}): Queue {
  let address = located;
  const client = createClient(address);
  const request = createRequest(client, onRequest);
  const fifo = isFifo(address.url);
  // The signer of `fetchRequests` does not support a path.
  const hasPath = address.endpoint !== undefined && new URL(address.endpoint).pathname !== "/";
  const requests = address.client === "sdk" || hasPath ? sdkRequests(client) : fetchRequests(client, address.url);

  async function receive(
    waitTimeSeconds: number,
    signal: AbortSignal,
    VisibilityTimeout = address.visibilityTimeoutSeconds,
    graceMs = RECEIVE_GRACE_MS,
  ): Promise<Message[]> {
    const input = {
      QueueUrl: address.url,
      MaxNumberOfMessages: 10,
      WaitTimeSeconds: waitTimeSeconds,
      VisibilityTimeout,
      MessageSystemAttributeNames: SYSTEM_ATTRIBUTES,
      // The sender's attributes are copied to the dead-letter queue.
      MessageAttributeNames: ["All"],
      // If the response is lost, the retry returns the same messages. Without this id, SQS would block their message groups.
      ...(fifo && { ReceiveRequestAttemptId: crypto.randomUUID() }),
    };
    const deadlineMs = waitTimeSeconds * 1000 + graceMs;
    const send = async (_: SQSClient, { abortSignal }: { abortSignal: AbortSignal }) =>
      checkMessages((await requests.receive(input, abortSignal)).Messages ?? []);
    return (await request("ReceiveMessage", send, deadlineMs, signal)).map(toMessage);
  }

  async function deleteMessages(messages: readonly Message[]): Promise<Failure[]> {
    if (messages.length === 0) return [];
    const Entries = messages.map(({ receiptHandle }, index) => ({ Id: `${index}`, ReceiptHandle: receiptHandle }));
    const { Failed } = await request("DeleteMessageBatch", (_, { abortSignal }) =>
      requests.delete({ QueueUrl: address.url, Entries }, abortSignal),
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
      requests.changeVisibility({ QueueUrl: address.url, Entries }, abortSignal),
    );
    return toFailures(messages, Failed);
  }

  async function deadLetter(rejected: readonly DeadLetter[], onDropped: OnDropped = () => {}): Promise<Failure[]> {
    const messages = rejected.map(({ message }) => message);
    const { deadLetterUrl, maxBytes } = address;
    if (!deadLetterUrl) return messages.map((message) => ({ message, reason: "the queue has no dead-letter queue" }));
    const entries = rejected.map((each, index) => {
      const { entry, dropped } = deadLetterEntry(each, index, fifo, maxBytes);
      if (dropped.length > 0) onDropped(each.message, dropped);
      return entry;
    });
    return await sendAll(request, deadLetterUrl, messages, entries);
  }

  async function redrive(deadLetters: readonly Message[]): Promise<Failure[]> {
    const entries = deadLetters.map((message, index) => redriveEntry(message, index, fifo, address.maxBytes));
    return await sendAll(request, address.url, deadLetters, entries);
  }

  async function send(bodies: readonly string[], groupIds: readonly string[] = []) {
    const entries = bodies.map((MessageBody, index) => ({
      Id: `${index}`,
      MessageBody,
      // Random: a retry of this request does not send a second message, but sending an equal body again does.
      ...(fifo && { MessageGroupId: groupIds[index], MessageDeduplicationId: crypto.randomUUID() }),
    }));
    for (const group of groupBySize(entries)) {
      const failed = await sendBatch(request, address.url, group);
      const [first] = failed;
      if (first) throw new Error(`Cannot send ${pluralize(failed.length, "message")}: ${first.Message ?? first.Code}`);
    }
  }

  async function depth(deadlineMs?: number): Promise<Depth> {
    const names: CountName[] = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"];
    const [[visible = 0, inFlight = 0], deadLetters] = await Promise.all([
      count(request, address.url, names, deadlineMs),
      count(request, address.deadLetterUrl, names.slice(0, 1), deadlineMs).catch(messageOf),
    ]);
    if (typeof deadLetters !== "string") return { visible, inFlight, deadLetter: deadLetters[0] };
    return { visible, inFlight, deadLetter: undefined, deadLetterProblem: deadLetters };
  }

  return {
    get address() {
      return address;
    },
    relocate: (next) => {
      address = next;
    },
    receive,
    delete: deleteMessages,
    changeVisibility,
    deadLetter,
    redrive,
    send,
    depth,
    close: () => client.destroy(),
  };
}

/**
 * Some implementations of SQS send no checksums.
 *
 * @returns the messages
 * @throws an Error if it is not a list, or if a body differs from its checksum
 */
function checkMessages(list: SqsMessage[]): SqsMessage[] {
  if (!Array.isArray(list)) throw new Error(NOT_SQS);
  const messages = list.filter((message) => typeof message === "object" && message !== null);
  const corrupt = messages.filter(
    ({ Body, MD5OfBody }) => MD5OfBody && Bun.MD5.hash(toText(Body), "hex") !== MD5OfBody.toLowerCase(),
  );
  if (corrupt.length === 0) return messages;
  throw new Error(`Invalid MD5 checksum on messages: ${corrupt.map(({ MessageId }) => MessageId).join(", ")}`);
}

/** Other implementations of SQS may send null, numbers or objects where SQS sends text. */
const toMessage = ({ MessageId, Body, ReceiptHandle, Attributes, MessageAttributes }: SqsMessage): Message => ({
  id: toText(MessageId),
  body: toText(Body),
  receiptHandle: toText(ReceiptHandle),
  sentAtMs: Number(Attributes?.SentTimestamp) || Date.now(),
  attributes: MessageAttributes ? withoutNulls(MessageAttributes) : {},
  receiveCount: Number(Attributes?.ApproximateReceiveCount) || 1,
  groupId: Attributes?.MessageGroupId,
  traceHeader: Attributes?.AWSTraceHeader,
});

const toText = (value: unknown) => (typeof value === "string" ? value : value == null ? "" : JSON.stringify(value));

function withoutNulls(attributes: Message["attributes"]): Message["attributes"] {
  const typed = Object.entries(attributes).filter(([, attribute]) => typeof attribute?.DataType === "string");
  return Object.fromEntries(
    typed.map(([name, { DataType, StringValue, BinaryValue }]) => [
      name,
      { DataType, ...(StringValue != null && { StringValue }), ...(BinaryValue && { BinaryValue }) },
    ]),
  );
}

type CountName = "ApproximateNumberOfMessages" | "ApproximateNumberOfMessagesNotVisible";

/** @throws an Error that names the queue */
async function count(
  request: Request,
  url: string | undefined,
  AttributeNames: CountName[],
  deadlineMs?: number,
): Promise<number[]> {
  if (!url) return AttributeNames.map(() => 0);
  const command = new GetQueueAttributesCommand({ QueueUrl: url, AttributeNames });
  try {
    const { Attributes } = await request(
      "GetQueueAttributes",
      (sqs, options) => sqs.send(command, options),
      deadlineMs,
    );
    return AttributeNames.map((name) => Number(Attributes?.[name] ?? 0));
  } catch (error) {
    throw new Error(`${url.split("/").at(-1)}: ${messageOf(error)}`, { cause: error });
  }
}
