import {
  ChangeMessageVisibilityBatchCommand,
  type ChangeMessageVisibilityBatchCommandInput,
  type ChangeMessageVisibilityBatchCommandOutput,
  DeleteMessageBatchCommand,
  type DeleteMessageBatchCommandInput,
  type DeleteMessageBatchCommandOutput,
  ReceiveMessageCommand,
  type ReceiveMessageCommandInput,
  type ReceiveMessageCommandOutput,
  type SQSClient,
} from "@aws-sdk/client-sqs";
import { NOT_SQS } from "./request.ts";
import { type Credentials, createSigner, type Sign } from "./sigv4.ts";

/** The requests of the consumer. They are sent so often that the CPU time of the SDK matters. */
export interface QueueRequests {
  receive(input: ReceiveMessageCommandInput, signal: AbortSignal): Promise<Result<ReceiveMessageCommandOutput>>;
  delete(input: DeleteMessageBatchCommandInput, signal: AbortSignal): Promise<Result<DeleteMessageBatchCommandOutput>>;
  changeVisibility(
    input: ChangeMessageVisibilityBatchCommandInput,
    signal: AbortSignal,
  ): Promise<Result<ChangeMessageVisibilityBatchCommandOutput>>;
}

type Result<Output> = Omit<Output, "$metadata">;

/** Same as the standard retry mode of the SDK: three attempts, pauses of up to 100 ms and 200 ms, longer after throttling. */
const MAX_ATTEMPTS = 3;
const RETRY_PAUSE_MS = 100;
const THROTTLE_PAUSE_MS = 500;
/** AWS rejects signatures whose time differs by more than five minutes. From four minutes on, the server's clock is used. */
const SKEW_LIMIT_MS = 4 * 60_000;

const THROTTLED =
  /Throttl|TooManyRequests|RequestLimitExceeded|SlowDown|BandwidthLimit|OverLimit|RequestTimeout$|RequestTimeoutException/i;
const CLOCK_SKEWED =
  /RequestTimeTooSkewed|InvalidSignature|RequestExpired|SignatureDoesNotMatch|RequestInTheFuture|AuthFailure/;

/** Sends the requests with the SDK, which uses about seven times the CPU of `fetchRequests` but supports every endpoint. */
export function sdkRequests(client: SQSClient): QueueRequests {
  return {
    receive: (input, abortSignal) => client.send(new ReceiveMessageCommand(input), { abortSignal }),
    delete: (input, abortSignal) => client.send(new DeleteMessageBatchCommand(input), { abortSignal }),
    changeVisibility: (input, abortSignal) =>
      client.send(new ChangeMessageVisibilityBatchCommand(input), { abortSignal }),
  };
}

/**
 * Sends the requests with `fetch` in the AWS JSON protocol. Region, credentials and endpoint come from the providers of the SDK
 * client, which also refresh expiring credentials.
 */
export function fetchRequests(client: SQSClient, queueUrl: string): QueueRequests {
  let clockOffsetMs = 0;
  let target: Awaited<ReturnType<typeof resolveTarget>> | undefined;
  let signer: { credentials: Credentials; second: number; sign: Sign } | undefined;

  /** @returns a signer, a new one each second and for new credentials */
  function currentSigner(credentials: Credentials, region: string): Sign {
    const second = Math.floor((Date.now() + clockOffsetMs) / 1000);
    if (signer?.second !== second || signer.credentials !== credentials) {
      const sign = createSigner({ credentials, region, service: "sqs" }, new Date(second * 1000));
      signer = { credentials, second, sign };
    }
    return signer.sign;
  }

  async function sendOnce(action: string, body: string, signal: AbortSignal): Promise<unknown> {
    target ??= await resolveTarget(client, queueUrl);
    // For every request: the provider caches credentials and refreshes them before they expire.
    const credentials = await client.config.credentials();
    const { endpoint, region } = target;
    const headers = {
      "content-type": "application/x-amz-json-1.0",
      host: endpoint.host,
      "x-amz-target": `AmazonSQS.${action}`,
      // Selects the error codes of the older query protocol, as the SDK does.
      "x-amzn-query-mode": "true",
    };
    const signed = currentSigner(credentials, region)(headers, body);
    // SQS does not redirect, and a signed request must not be sent to another server.
    const init: RequestInit = { method: "POST", headers: signed, body, signal, redirect: "manual" };
    const response = await fetch(endpoint.origin, init);
    if (!response.ok) throw await toError(response);
    return parseResult(await response.text());
  }

  async function send<Output>(action: string, input: object, signal: AbortSignal): Promise<Output> {
    for (let attempt = 1, body = JSON.stringify(input); ; attempt++) {
      try {
        return (await sendOnce(action, body, signal)) as Output;
      } catch (error) {
        const pauseMs = retryPauseMs(error as RequestError, attempt);
        if (signal.aborted || pauseMs === undefined) throw error;
        await Bun.sleep(pauseMs);
        if (signal.aborted) throw error;
        if (isThrottled(error as RequestError)) body = JSON.stringify(withNewAttemptId(input));
      }
    }
  }

  /** @returns how long to wait before the next attempt, ms; undefined if another attempt would fail in the same way */
  function retryPauseMs(error: RequestError, attempt: number): number | undefined {
    if (attempt === MAX_ATTEMPTS) return undefined;
    const { status, name, serverTime } = error;
    if (serverTime && CLOCK_SKEWED.test(name) && Math.abs(serverTime - (Date.now() + clockOffsetMs)) > SKEW_LIMIT_MS) {
      clockOffsetMs = serverTime - Date.now();
      return 0;
    }
    const throttled = isThrottled(error);
    // Without a status, the connection failed or the response was not JSON. All three requests are safe to repeat.
    if (!throttled && status !== undefined && status < 500) return undefined;
    return Math.random() * (throttled ? THROTTLE_PAUSE_MS : RETRY_PAUSE_MS) * 2 ** (attempt - 1);
  }

  return {
    receive: async (input, signal) => decodeBinaryAttributes(await send("ReceiveMessage", input, signal)),
    delete: (input, signal) => send("DeleteMessageBatch", input, signal),
    changeVisibility: (input, signal) => send("ChangeMessageVisibilityBatch", input, signal),
  };
}

const isThrottled = ({ status, name }: RequestError) => status === 429 || THROTTLED.test(name);

/** SQS rejects the attempt id of a receive that it has throttled. */
function withNewAttemptId(input: { ReceiveRequestAttemptId?: string }): object {
  return input.ReceiveRequestAttemptId ? { ...input, ReceiveRequestAttemptId: crypto.randomUUID() } : input;
}

/** Binary attributes are base64 in JSON. The SDK encodes them when it sends them to the dead-letter queue, so decode them here. */
function decodeBinaryAttributes(response: Result<ReceiveMessageCommandOutput>): Result<ReceiveMessageCommandOutput> {
  for (const message of Array.isArray(response.Messages) ? response.Messages : []) {
    for (const attribute of Object.values(message?.MessageAttributes ?? {})) {
      if (attribute?.BinaryValue) attribute.BinaryValue = Buffer.from(`${attribute.BinaryValue}`, "base64");
    }
  }
  return response;
}

/** @returns the region, and the configured endpoint or else the host of the queue URL */
async function resolveTarget({ config }: SQSClient, queueUrl: string) {
  const region = await config.region();
  if (!config.endpoint) return { region, endpoint: new URL(queueUrl) };
  const { protocol, hostname, port } = await config.endpoint();
  const host = port ? `${hostname}:${port}` : hostname;
  return { region, endpoint: { origin: `${protocol}//${host}`, host } };
}

interface RequestError extends Error {
  status?: number;
  /** The server's clock, ms since the epoch. */
  serverTime?: number;
}

/** @returns an error named after the error code of the service, like the errors of the SDK */
async function toError(response: Response): Promise<RequestError> {
  const text = await response.text();
  const { __type, code, message, Message } = parseObject(text);
  const errorType = response.headers.get("x-amzn-errortype") ?? __type ?? code ?? "";
  // Either com.amazonaws.sqs#Code or Code:http://…
  const name = `${errorType}`.split(":")[0]?.split("#").at(-1) || `HTTP ${response.status}`;
  const error: RequestError = new Error(`${message ?? Message ?? (text.slice(0, 200) || "no reason given")}`);
  error.name = name;
  error.status = response.status;
  error.serverTime = Date.parse(response.headers.get("date") ?? "");
  return error;
}

/**
 * A server or proxy that is not SQS may respond with anything, and treating that as "no messages" would hide it. Other
 * implementations of SQS send null for lists that are empty.
 *
 * @throws an Error for anything but a JSON object. It does not quote the response, which may contain orders
 */
function parseResult(text: string): object {
  const result: unknown = text === "" ? undefined : JSON.parse(text);
  if (typeof result !== "object" || result === null || Array.isArray(result)) throw new Error(NOT_SQS);
  return Object.fromEntries(Object.entries(result).filter(([, value]) => value !== null));
}

function parseObject(text: string): Record<string, unknown> {
  try {
    return Object(JSON.parse(text));
  } catch {
    return {};
  }
}
