import {
  type BatchResultErrorEntry,
  type MessageAttributeValue,
  SendMessageBatchCommand,
  type SendMessageBatchRequestEntry,
} from "@aws-sdk/client-sqs";
import { type DeadLetter, type Failure, type Message, originalIdOf } from "./message.ts";
import { describeQueueError, type Request } from "./request.ts";

/** AWS limits a batch to 1 MiB, older emulators to 256 KiB. */
const BATCH_BYTES = 256 * 1024;
/** SQS counts the body and the name, type and value of each attribute. A queue can have a lower limit. */
export const MAX_MESSAGE_BYTES = 1024 * 1024;
const MAX_ATTRIBUTES = 10;

/**
 * Sends entries in as many batches as their size requires. The `Id` of an entry is the index of its message. Never rejects.
 *
 * @returns the messages that may not have been sent
 */
export async function sendAll(
  request: Request,
  url: string,
  messages: readonly Message[],
  entries: SendMessageBatchRequestEntry[],
): Promise<Failure[]> {
  const groups = groupBySize(entries).map(async (group) => {
    try {
      return toFailures(messages, await sendBatch(request, url, group));
    } catch (error) {
      // Other groups may have been sent, so report only the messages of this one.
      const Message = describeQueueError(error);
      return toFailures(
        messages,
        group.map(({ Id }) => ({ Id, SenderFault: false, Code: "SendFailed", Message })),
      );
    }
  });
  return (await Promise.all(groups)).flat();
}

/**
 * Sends one batch.
 *
 * @returns the entries that may not have been sent. An entry in neither list of the response counts as failed, because the
 *   caller deletes the original of every dead letter that was sent
 */
export async function sendBatch(
  request: Request,
  url: string,
  Entries: SendMessageBatchRequestEntry[],
): Promise<BatchResultErrorEntry[]> {
  const command = new SendMessageBatchCommand({ QueueUrl: url, Entries });
  const { Successful = [], Failed = [] } = await request("SendMessageBatch", (sqs, options) =>
    sqs.send(command, options),
  );
  const confirmed = new Set([...Successful, ...Failed].map(({ Id }) => Id));
  const unconfirmed = Entries.filter(({ Id }) => !confirmed.has(Id));
  return [...Failed, ...unconfirmed.map(({ Id }) => ({ Id, SenderFault: false, Code: "Unconfirmed" }))];
}

/** @returns the messages of failed entries. The `Id` of an entry is the index of its message */
export function toFailures(messages: readonly Message[], failed: BatchResultErrorEntry[] = []): Failure[] {
  return failed.flatMap(({ Id, Code, Message: text }) => {
    const message = messages[Number(Id)];
    return message ? [{ message, reason: `${Code}: ${text ?? "no reason given"}` }] : [];
  });
}

/**
 * Reason, original message id and errors become attributes and replace those of an earlier rejection. What does not fit is dropped:
 * the last errors, then attributes of the sender, `traceparent` last.
 *
 * @returns the entry that sends a rejected message to the dead-letter queue, and the names of missing or incomplete attributes
 */
export function deadLetterEntry(rejected: DeadLetter, index: number, fifo: boolean, maxBytes?: number) {
  const { message, reason, errors } = rejected;
  const firstErrors = errors.map((_, cut) => JSON.stringify(errors.slice(0, errors.length - cut)));
  const { RejectReason, RejectErrors, OriginalMessageId, traceparent, ...others } = message.attributes;
  const { attributes, dropped } = fitAttributes(message.body, maxBytes, [
    ["RejectReason", textAttribute(reason)],
    ["OriginalMessageId", textAttribute(originalIdOf(message))],
    ...firstErrors.map((json): Attribute => ["RejectErrors", textAttribute(json)]),
    ["traceparent", traceparent],
    ...Object.entries(others),
  ]);
  return { entry: { ...entryOf(message, index, fifo), MessageAttributes: attributes }, dropped };
}

/** @returns the entry that sends a dead letter back to the queue, without reason and errors, with its original id if that fits */
export function redriveEntry(message: Message, index: number, fifo: boolean, maxBytes?: number) {
  const { RejectReason, RejectErrors, OriginalMessageId, ...others } = message.attributes;
  const wanted = { ...others, OriginalMessageId: textAttribute(originalIdOf(message)) };
  const { attributes, dropped } = fitAttributes(message.body, maxBytes, Object.entries(wanted));
  return { ...entryOf(message, index, fifo), MessageAttributes: dropped.length > 0 ? others : attributes };
}

type Attribute = [name: string, value: MessageAttributeValue | undefined];

/** @returns the attributes that fit, of several with one name the first, and the names of those that do not */
function fitAttributes(body: string, maxBytes = MAX_MESSAGE_BYTES, wanted: Attribute[]) {
  const kept = new Map<string, MessageAttributeValue>();
  const dropped = new Set<string>();
  let room = maxBytes - Buffer.byteLength(body);
  for (const [name, value] of wanted) {
    if (!value || kept.has(name)) continue;
    const { DataType = "", StringValue = "", BinaryValue = [] } = value;
    // Emulators count binary values in base64.
    const bytes = Buffer.byteLength(name + DataType + StringValue) + 4 * Math.ceil(BinaryValue.length / 3);
    if (bytes > room || kept.size === MAX_ATTRIBUTES) dropped.add(name);
    else kept.set(name, value);
    if (kept.has(name)) room -= bytes;
  }
  return { attributes: Object.fromEntries(kept), dropped: [...dropped] };
}

/** @returns undefined for an empty text. SQS accepts neither that nor characters that XML does not have */
function textAttribute(text: string): MessageAttributeValue | undefined {
  const StringValue = text.replace(/[^\t\n\r -\ud7ff\ue000-\ufffd\u{10000}-\u{10ffff}]/gu, "\ufffd");
  return text === "" ? undefined : { DataType: "String", StringValue };
}

const entryOf = (message: Message, index: number, fifo: boolean) => ({
  Id: `${index}`,
  MessageBody: message.body,
  ...groupFields(message, fifo),
  ...traceFields(message),
});

/**
 * Keeps the message group. In a FIFO queue, the deduplication id is the message id, as when AWS moves a message: a repeated
 * send leaves one copy. It must not be the sender's deduplication id: a FIFO queue silently drops a message whose id was used in
 * the last five minutes, so a dead letter that is redriven within that time would be lost.
 */
function groupFields({ id, groupId }: Message, fifo: boolean) {
  return { MessageGroupId: groupId, ...(fifo && { MessageDeduplicationId: id }) };
}

/** Keeps the X-Ray trace header, the only system attribute that a sender can set. It does not count towards the limits of SQS. */
function traceFields({ traceHeader }: Message): Pick<SendMessageBatchRequestEntry, "MessageSystemAttributes"> {
  if (traceHeader === undefined) return {};
  return { MessageSystemAttributes: { AWSTraceHeader: { DataType: "String", StringValue: traceHeader } } };
}

/** Splits entries into batches of at most `BATCH_BYTES`. A larger entry becomes a batch of its own. */
export function groupBySize(entries: readonly SendMessageBatchRequestEntry[]): SendMessageBatchRequestEntry[][] {
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
