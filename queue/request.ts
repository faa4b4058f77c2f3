import type { SQSClient } from "@aws-sdk/client-sqs";
import { cachedFor, withDeadline } from "../deadline.ts";

/** Requests other than a receive take milliseconds. Ten seconds allow for the two retries of the SDK. */
const REQUEST_DEADLINE_MS = 10_000;

/** SQS does not accept the credentials. They may have been replaced by new ones. */
const REFUSED_CREDENTIALS = /ExpiredToken|InvalidClientTokenId|UnrecognizedClient|InvalidAccessKeyId/;
/** Getting credentials may start a process or send a request, so it must not happen for each of many failing requests. */
const CREDENTIALS_PAUSE_MS = 2_000;
export const NOT_SQS = "the response is not in the protocol of SQS";

/** Is called after every request. */
export type OnRequest = (action: string, failed: boolean) => void;

export type Request = ReturnType<typeof createRequest>;

/**
 * @returns a function that sends one request with a deadline and calls `onRequest`. It throws an Error "{action} failed:
 *   {reason}" whose cause is the original error
 */
export function createRequest(client: SQSClient, onRequest: OnRequest) {
  const refreshCredentials = cachedFor(CREDENTIALS_PAUSE_MS, () => client.config.credentials({ forceRefresh: true }));

  return async <T>(
    action: string,
    send: (client: SQSClient, options: { abortSignal: AbortSignal }) => Promise<T>,
    deadlineMs = REQUEST_DEADLINE_MS,
    signal?: AbortSignal,
  ): Promise<T> => {
    try {
      const response = await withDeadline(deadlineMs, signal, async (abortSignal) => {
        const attempt = () => send(client, { abortSignal });
        return await attempt().catch(async (error) => {
          if (!REFUSED_CREDENTIALS.test(error.name)) throw error;
          await refreshCredentials();
          return await attempt();
        });
      });
      onRequest(action, false);
      return response;
    } catch (error) {
      onRequest(action, !signal?.aborted);
      throw new Error(`${action} failed: ${describeQueueError(error)}`, { cause: error });
    }
  };
}

/** Errors of Bun and the SDK whose own text does not help an operator. */
const EXPLANATIONS: [RegExp, string][] = [
  [/ECONNREFUSED/, "connection refused"],
  [/JSON Parse error|Malformed_HTTP_Response|UnknownError/, NOT_SQS],
  [/ECONNRESET|closed unexpectedly/, "the server closed the connection"],
  [/TLS handshake/, "the port does not accept TLS"],
];

/** @returns the cause of a network error, or the error code and message of SQS, without a final full stop */
export function describeQueueError(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const explanation = EXPLANATIONS.find(([pattern]) => pattern.test(error.message))?.[1];
  if (explanation) return explanation;
  const message = error.message.replace(/\.+$/, "");
  return ["Error", "TypeError"].includes(error.name) ? message : `${error.name}: ${message}`;
}

/** @returns the reason of a failed request without the text of SQS, which names accounts and roles */
export const withoutDetails = (reason: string) => reason.replace(/( failed: [A-Za-z][\w.]*(?: \d+)?): .*/s, "$1");
