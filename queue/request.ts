import type { SQSClient } from "@aws-sdk/client-sqs";
import { withDeadline } from "../deadline.ts";

/** Requests other than a receive take milliseconds. Ten seconds allow for the two retries of the SDK. */
const REQUEST_DEADLINE_MS = 10_000;

/** Is called after every request. */
export type OnRequest = (action: string, failed: boolean) => void;

export type Request = ReturnType<typeof createRequest>;

/**
 * @returns a function that sends one request with a deadline and calls `onRequest`. It throws an Error "{action} failed:
 *   {reason}" whose cause is the original error
 */
export function createRequest(client: SQSClient, onRequest: OnRequest) {
  return async <T>(
    action: string,
    send: (client: SQSClient, options: { abortSignal: AbortSignal }) => Promise<T>,
    deadlineMs = REQUEST_DEADLINE_MS,
    signal?: AbortSignal,
  ): Promise<T> => {
    try {
      const response = await withDeadline(deadlineMs, signal, (abortSignal) => send(client, { abortSignal }));
      onRequest(action, false);
      return response;
    } catch (error) {
      onRequest(action, !signal?.aborted);
      throw new Error(`${action} failed: ${describeQueueError(error)}`, { cause: error });
    }
  };
}

/** @returns the error code and message of SQS, or the message of a network error, without a final full stop */
export function describeQueueError(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const message = error.message.replace(/\.+$/, "");
  if (/ECONNREFUSED/.test(message)) return "connection refused";
  return ["Error", "TypeError"].includes(error.name) ? message : `${error.name}: ${message}`;
}
