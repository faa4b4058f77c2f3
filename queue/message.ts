import type { MessageAttributeValue } from "@aws-sdk/client-sqs";

export interface Message {
  id: string;
  body: string;
  receiptHandle: string;
  /** SentTimestamp, ms since the epoch. A redrive is a new send and resets it. */
  sentAtMs: number;
  attributes: Record<string, MessageAttributeValue>;
  /** How often SQS has delivered the message, including this time. */
  receiveCount?: number;
  /** Always set in a FIFO queue; in a standard queue only if the sender uses fair queues. */
  groupId?: string;
  /** The AWS X-Ray trace header, if the sender set one. */
  traceHeader?: string;
}

/** @returns the id under which the log names the message: that of its first receive, also after it was dead-lettered and redriven */
export function originalIdOf({ id, attributes }: Message): string {
  const original = attributes.OriginalMessageId?.StringValue ?? "";
  // Anybody can send the attribute. The ids of SQS have at most 100 characters.
  return /^[!-~]{1,100}$/.test(original) ? original : id;
}

export interface DeadLetter {
  message: Message;
  reason: string;
  errors: readonly { path: string; message: string }[];
}

/** A message of a batch request that failed, and the reason. */
export interface Failure {
  message: Message;
  reason: string;
}
