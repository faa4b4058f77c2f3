import {
  type BatchResultErrorEntry,
  SendMessageBatchCommand,
  type SendMessageBatchRequestEntry,
} from "@aws-sdk/client-sqs";
import type { DeadLetter, Failure, Message } from "./message.ts";
import { describeQueueError, type Request } from "./request.ts";

/** AWS limits a batch to 1 MiB, older emulators to 256 KiB. */
const BATCH_BYTES = 256 * 1024;
/** SQS allows ten attributes per message, and a dead letter gets two: RejectReason and RejectErrors. */
const MAX_SENDER_ATTRIBUTES = 8;

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

/** @returns the entry that sends a rejected message to the dead-letter queue, with reason and errors as attributes */
export function deadLetterEntry(
  { message, reason, errors }: DeadLetter,
  index: number,
  fifo: boolean,
): SendMessageBatchRequestEntry {
  const { traceparent, ...others } = message.attributes;
  // traceparent first, so that it is never one of the attributes that are dropped.
  const kept = Object.entries({ ...(traceparent && { traceparent }), ...others }).slice(0, MAX_SENDER_ATTRIBUTES);
  const MessageAttributes = {
    ...Object.fromEntries(kept),
    RejectReason: { DataType: "String", StringValue: reason },
    RejectErrors: { DataType: "String", StringValue: JSON.stringify(errors) },
  };
  const entry = { Id: `${index}`, MessageBody: message.body, MessageAttributes };
  return { ...entry, ...groupFields(message, fifo), ...traceFields(message) };
}

/** @returns the entry that sends a dead letter back to the queue, without reason and errors */
export function redriveEntry(message: Message, index: number, fifo: boolean): SendMessageBatchRequestEntry {
  const { RejectReason, RejectErrors, ...senderAttributes } = message.attributes;
  const entry = { Id: `${index}`, MessageBody: message.body, MessageAttributes: senderAttributes };
  return { ...entry, ...groupFields(message, fifo), ...traceFields(message) };
}

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
