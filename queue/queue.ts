import {
  type BatchResultErrorEntry,
  GetQueueAttributesCommand,
  type MessageAttributeValue,
  type MessageSystemAttributeName,
  SendMessageBatchCommand,
  type SendMessageBatchRequestEntry,
  type SQSClient,
} from "@aws-sdk/client-sqs";
import { createClient, isFifo, type QueueAddress, withDeadline } from "./client.ts";
import { fetchPath, sdkPath } from "./hot-path.ts";

export interface Message {
  id: string;
  body: string;
  receiptHandle: string;
  /** When it was sent, ms since the epoch; a redrive sets it anew. */
  sentAtMs: number;
  attributes: Record<string, MessageAttributeValue>;
  /** Every message of a FIFO queue is in a group; those of a standard queue are where it is a fair one. */
  groupId?: string;
  /** What SQS carries beside the attributes for X-Ray, where the sender is traced. */
  traceHeader?: string;
}

export interface DeadLetter {
  message: Message;
  reason: string;
  errors: readonly { path: string; message: string }[];
}

/** Messages in the queue, as far as SQS knows: approximate by its own word. */
export interface Depth {
  visible: number;
  inFlight: number;
  deadLetter: number;
}

/** A message of a batch that SQS did not take, and why. */
export interface Failure {
  message: Message;
  reason: string;
}

export interface Queue {
  readonly address: QueueAddress;
  /**
   * At most ten messages, hidden for the queue's visibility timeout unless another is given; none when the wait is
   * over. Aborting `signal` ends the wait with a rejection.
   */
  receive(waitTimeSeconds: number, signal: AbortSignal, visibilityTimeoutSeconds?: number): Promise<Message[]>;
  /** Deletes at most ten messages and answers those that SQS kept. */
  delete(messages: readonly Message[]): Promise<Failure[]>;
  /** Hides at most ten messages for this long from now; 0 releases them. Answers those that SQS refused. */
  changeVisibility(messages: readonly Message[], timeoutSeconds: number): Promise<Failure[]>;
  /** Copies at most ten messages to the dead-letter queue, bodies unchanged. Answers those that it refused. */
  deadLetter(rejected: readonly DeadLetter[]): Promise<Failure[]>;
  /** The way back: sends at most ten dead letters without reason and errors. Answers those that SQS refused. */
  redrive(deadLetters: readonly Message[]): Promise<Failure[]>;
  /** Sends at most ten bodies, to a FIFO queue in a group each; rejects when SQS takes fewer. */
  send(bodies: readonly string[], groupIds?: readonly string[]): Promise<void>;
  depth(): Promise<Depth>;
  close(): void;
}

export type OnRequest = (action: string, failed: boolean) => void;

/** A request other than a receive answers in milliseconds; ten seconds leave room for the SDK's two retries. */
const REQUEST_DEADLINE_MS = 10_000;
/** Past its wait, a receive is given five seconds for the network before it is abandoned. */
const RECEIVE_GRACE_MS = 5_000;
/** A batch holds at most 1 MiB on AWS, 256 KiB on older emulators; bodies are grouped below the smaller one. */
const BATCH_BYTES = 256 * 1024;
const SYSTEM_ATTRIBUTES: MessageSystemAttributeName[] = ["SentTimestamp", "AWSTraceHeader", "MessageGroupId"];
/** SQS allows ten attributes a message; two of them are ours. */
const MAX_OWN_ATTRIBUTES = 8;

/** Speaks SQS for one thread. `onRequest` hears of every request and whether it failed. */
export function openQueue(address: QueueAddress, onRequest: OnRequest = () => {}): Queue {
  const client = createClient(address);
  const QueueUrl = address.url;
  const fifo = isFifo(QueueUrl);
  // The fetch path knows no endpoint behind a path.
  const behindPath = address.endpoint !== undefined && new URL(address.endpoint).pathname !== "/";
  const hot = address.client === "sdk" || behindPath ? sdkPath(client) : fetchPath(client, QueueUrl);

  async function request<T>(
    action: string,
    send: (client: SQSClient, options: { abortSignal: AbortSignal }) => Promise<T>,
    deadlineMs = REQUEST_DEADLINE_MS,
    signal?: AbortSignal,
  ): Promise<T> {
    try {
      const answer = await withDeadline(deadlineMs, signal, (abortSignal) => send(client, { abortSignal }));
      onRequest(action, false);
      return answer;
    } catch (error) {
      onRequest(action, !signal?.aborted);
      throw new Error(`${action} failed: ${reasonOf(error)}`, { cause: error });
    }
  }

  async function receive(waitTimeSeconds: number, signal: AbortSignal, VisibilityTimeout?: number): Promise<Message[]> {
    const input = {
      QueueUrl,
      MaxNumberOfMessages: 10,
      WaitTimeSeconds: waitTimeSeconds,
      VisibilityTimeout,
      MessageSystemAttributeNames: SYSTEM_ATTRIBUTES,
      // The sender's own attributes travel on with a rejected message.
      MessageAttributeNames: ["All"],
      // The retry of a receive whose answer was lost gets its messages, which would hide their groups from everybody.
      ...(fifo && { ReceiveRequestAttemptId: crypto.randomUUID() }),
    };
    const deadlineMs = waitTimeSeconds * 1000 + RECEIVE_GRACE_MS;
    const answer = await request(
      "ReceiveMessage",
      (_, { abortSignal }) => hot.receive(input, abortSignal),
      deadlineMs,
      signal,
    );
    return (answer.Messages ?? []).map((message) => ({
      id: message.MessageId ?? "",
      body: message.Body ?? "",
      receiptHandle: message.ReceiptHandle ?? "",
      sentAtMs: Number(message.Attributes?.SentTimestamp ?? Date.now()),
      attributes: message.MessageAttributes ?? {},
      groupId: message.Attributes?.MessageGroupId,
      traceHeader: message.Attributes?.AWSTraceHeader,
    }));
  }

  async function deleteMessages(messages: readonly Message[]): Promise<Failure[]> {
    if (messages.length === 0) return [];
    const Entries = messages.map(({ receiptHandle }, index) => ({
      Id: `${index}`,
      ReceiptHandle: receiptHandle,
    }));
    const answer = await request("DeleteMessageBatch", (_, { abortSignal }) =>
      hot.delete({ QueueUrl, Entries }, abortSignal),
    );
    return failuresOf(messages, answer.Failed);
  }

  async function changeVisibility(messages: readonly Message[], timeoutSeconds: number): Promise<Failure[]> {
    if (messages.length === 0) return [];
    const Entries = messages.map(({ receiptHandle }, index) => ({
      Id: `${index}`,
      ReceiptHandle: receiptHandle,
      VisibilityTimeout: timeoutSeconds,
    }));
    const answer = await request("ChangeMessageVisibilityBatch", (_, { abortSignal }) =>
      hot.changeVisibility({ QueueUrl, Entries }, abortSignal),
    );
    return failuresOf(messages, answer.Failed);
  }

  /**
   * Answers the entries that are not in the queue for sure. What the answer does not name at all counts as one of
   * them: the original of a dead letter is deleted next.
   */
  async function sendBatch(url: string, Entries: SendMessageBatchRequestEntry[]): Promise<BatchResultErrorEntry[]> {
    const command = new SendMessageBatchCommand({ QueueUrl: url, Entries });
    const answer = await request("SendMessageBatch", (sqs, options) => sqs.send(command, options));
    const { Successful = [], Failed = [] } = answer;
    const named = new Set([...Successful, ...Failed].map(({ Id }) => Id));
    const unnamed = Entries.filter(({ Id }) => !named.has(Id));
    return [...Failed, ...unnamed.map(({ Id }) => ({ Id, SenderFault: false, Code: "Unconfirmed" }))];
  }

  /** A group that fails must not hide that others arrived: its messages are failures like those SQS names. */
  async function sendAll(url: string, messages: readonly Message[], entries: SendMessageBatchRequestEntry[]) {
    const groups = groupBySize(entries).map(async (group) => {
      try {
        return failuresOf(messages, await sendBatch(url, group));
      } catch (error) {
        const failed = group.map(({ Id }) => ({
          Id,
          SenderFault: false,
          Code: "SendFailed",
          Message: reasonOf(error),
        }));
        return failuresOf(messages, failed);
      }
    });
    return (await Promise.all(groups)).flat();
  }

  async function deadLetter(rejected: readonly DeadLetter[]): Promise<Failure[]> {
    const url = address.deadLetterUrl;
    if (!url) return rejected.map(({ message }) => ({ message, reason: "the queue has no dead-letter queue" }));
    const messages = rejected.map(({ message }) => message);
    const entries = rejected.map((each, index) => ({
      ...toDeadLetterEntry(each, index),
      ...groupOf(each.message, fifo),
    }));
    return await sendAll(url, messages, entries);
  }

  async function redrive(deadLetters: readonly Message[]): Promise<Failure[]> {
    const entries = deadLetters.map((message, index) => {
      const { RejectReason, RejectErrors, ...own } = message.attributes;
      const passedOn = { ...groupOf(message, fifo), ...traceHeaderOf(message) };
      return { Id: `${index}`, MessageBody: message.body, MessageAttributes: own, ...passedOn };
    });
    return await sendAll(QueueUrl, deadLetters, entries);
  }

  async function send(bodies: readonly string[], groupIds: readonly string[] = []) {
    const entries = bodies.map((MessageBody, index) => ({
      Id: `${index}`,
      MessageBody,
      // A retry of this request sends no second message, as an equal body sent again does.
      ...(fifo && { MessageGroupId: groupIds[index], MessageDeduplicationId: crypto.randomUUID() }),
    }));
    for (const group of groupBySize(entries)) {
      const failed = await sendBatch(QueueUrl, group);
      const [first] = failed;
      if (first) throw new Error(`Cannot send ${failed.length} messages: ${first.Message ?? first.Code}`);
    }
  }

  async function count(url: string | undefined, ...AttributeNames: CountName[]): Promise<number[]> {
    if (!url) return AttributeNames.map(() => 0);
    const command = new GetQueueAttributesCommand({ QueueUrl: url, AttributeNames });
    const { Attributes } = await request("GetQueueAttributes", (sqs, options) => sqs.send(command, options));
    return AttributeNames.map((name) => Number(Attributes?.[name] ?? 0));
  }

  async function depth(): Promise<Depth> {
    const [[visible = 0, inFlight = 0], [deadLetter = 0]] = await Promise.all([
      count(QueueUrl, "ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"),
      count(address.deadLetterUrl, "ApproximateNumberOfMessages"),
    ]);
    return { visible, inFlight, deadLetter };
  }

  const close = () => client.destroy();
  return { address, receive, delete: deleteMessages, changeVisibility, deadLetter, redrive, send, depth, close };
}

type CountName = "ApproximateNumberOfMessages" | "ApproximateNumberOfMessagesNotVisible";

/** Entries carry the index of their message as `Id`, so that the `Failed` list can be read back. */
function failuresOf(messages: readonly Message[], failed: BatchResultErrorEntry[] = []): Failure[] {
  return failed.flatMap(({ Id, Code, Message: text }) => {
    const message = messages[Number(Id)];
    return message ? [{ message, reason: `${Code}: ${text ?? "no reason given"}` }] : [];
  });
}

function toDeadLetterEntry({ message, reason, errors }: DeadLetter, index: number): SendMessageBatchRequestEntry {
  const { traceparent, ...others } = message.attributes;
  // Its trace is the last that a dead letter should lose.
  const own = Object.entries({ ...(traceparent && { traceparent }), ...others }).slice(0, MAX_OWN_ATTRIBUTES);
  return {
    Id: `${index}`,
    MessageBody: message.body,
    MessageAttributes: {
      ...Object.fromEntries(own),
      RejectReason: { DataType: "String", StringValue: reason },
      RejectErrors: { DataType: "String", StringValue: JSON.stringify(errors) },
    },
    ...traceHeaderOf(message),
  };
}

/**
 * The group travels on. A FIFO queue drops what has the deduplication id of the last five minutes, and says that it took
 * it. By the message's own id, as when AWS moves a message, a send that is repeated leaves one copy. The sender's
 * deduplication id would lose dead letters: moved back within five minutes, they would pass for what was sent first.
 */
function groupOf({ id, groupId }: Message, fifo: boolean) {
  return { MessageGroupId: groupId, ...(fifo && { MessageDeduplicationId: id }) };
}

/** The one system attribute that SQS takes from a sender; it counts neither as an attribute nor in the size. */
function traceHeaderOf({ traceHeader }: Message): Pick<SendMessageBatchRequestEntry, "MessageSystemAttributes"> {
  if (traceHeader === undefined) return {};
  return { MessageSystemAttributes: { AWSTraceHeader: { DataType: "String", StringValue: traceHeader } } };
}

/** Splits entries into batches that stay below `BATCH_BYTES`; one that is larger travels alone. */
function groupBySize(entries: readonly SendMessageBatchRequestEntry[]): SendMessageBatchRequestEntry[][] {
  const groups: SendMessageBatchRequestEntry[][] = [];
  let room = 0;
  for (const entry of entries) {
    const bytes =
      Buffer.byteLength(entry.MessageBody ?? "") + Buffer.byteLength(JSON.stringify(entry.MessageAttributes ?? ""));
    if (bytes > room || groups.length === 0) {
      groups.push([]);
      room = BATCH_BYTES;
    }
    groups.at(-1)?.push(entry);
    room -= bytes;
  }
  return groups;
}

/** The words of an error that help an operator: the service's code and message, or the network's. */
export function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const message = error.message.replace(/\.+$/, "");
  if (/ECONNREFUSED/.test(message)) return "connection refused";
  return ["Error", "TypeError"].includes(error.name) ? message : `${error.name}: ${message}`;
}
