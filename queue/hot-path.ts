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
import { sign } from "./sigv4.ts";

/** The three requests that every order pays for. */
export interface HotPath {
  receive(input: ReceiveMessageCommandInput, signal: AbortSignal): Promise<Answer<ReceiveMessageCommandOutput>>;
  delete(input: DeleteMessageBatchCommandInput, signal: AbortSignal): Promise<Answer<DeleteMessageBatchCommandOutput>>;
  changeVisibility(
    input: ChangeMessageVisibilityBatchCommandInput,
    signal: AbortSignal,
  ): Promise<Answer<ChangeMessageVisibilityBatchCommandOutput>>;
}

type Answer<Output> = Omit<Output, "$metadata">;

/** The SDK's standard: three tries, pauses up to 100 ms and 200 ms, longer ones after throttling. */
const MAX_ATTEMPTS = 3;
const RETRY_PAUSE_MS = 100;
const THROTTLE_PAUSE_MS = 500;
/** AWS refuses a signature more than five minutes off; from four on the clock is put right by the server's. */
const SKEW_LIMIT_MS = 4 * 60_000;

const THROTTLED =
  /Throttl|TooManyRequests|RequestLimitExceeded|SlowDown|BandwidthLimit|OverLimit|RequestTimeout$|RequestTimeoutException/i;
const SKEWED =
  /RequestTimeTooSkewed|InvalidSignature|RequestExpired|SignatureDoesNotMatch|RequestInTheFuture|AuthFailure/;

/**
 * Through the SDK's own commands: some seven times the CPU of the fetch path, for the day when that one meets an
 * endpoint it cannot speak to.
 */
export function sdkPath(client: SQSClient): HotPath {
  return {
    receive: (input, abortSignal) => client.send(new ReceiveMessageCommand(input), { abortSignal }),
    delete: (input, abortSignal) => client.send(new DeleteMessageBatchCommand(input), { abortSignal }),
    changeVisibility: (input, abortSignal) =>
      client.send(new ChangeMessageVisibilityBatchCommand(input), { abortSignal }),
  };
}

/**
 * The same requests as plain `fetch` in the AWS JSON protocol. Region, credentials and endpoint come from the client,
 * and so from the SDK's own providers, which refresh what expires.
 */
export function fetchPath(client: SQSClient, queueUrl: string): HotPath {
  let clockOffsetMs = 0;
  let place: Awaited<ReturnType<typeof placeOf>> | undefined;

  async function once(action: string, body: string, signal: AbortSignal): Promise<unknown> {
    place ??= await placeOf(client, queueUrl);
    // Asked for every time: it is the provider that knows when they expire.
    const credentials = await client.config.credentials();
    const { endpoint, region } = place;
    const headers = {
      "content-type": "application/x-amz-json-1.0",
      host: endpoint.host,
      "x-amz-target": `AmazonSQS.${action}`,
      // Asks for the error codes of the older protocol, as the SDK does.
      "x-amzn-query-mode": "true",
    };
    const now = new Date(Date.now() + clockOffsetMs);
    const signed = sign(headers, body, { credentials, region, service: "sqs" }, now);
    const response = await fetch(endpoint.origin, { method: "POST", headers: signed, body, signal });
    if (!response.ok) throw await toError(response);
    const text = await response.text();
    return (text !== "" && JSON.parse(text)) || {};
  }

  async function send<Output>(action: string, input: object, signal: AbortSignal): Promise<Output> {
    for (let attempt = 1, body = JSON.stringify(input); ; attempt++) {
      try {
        return (await once(action, body, signal)) as Output;
      } catch (error) {
        const pauseMs = retryPauseMs(error as RequestError, attempt);
        if (signal.aborted || pauseMs === undefined) throw error;
        await Bun.sleep(pauseMs);
        if (signal.aborted) throw error;
        if (isThrottled(error as RequestError)) body = JSON.stringify(renewed(input));
      }
    }
  }

  /** How long to wait before the next try; undefined where it would answer the same. */
  function retryPauseMs(error: RequestError, attempt: number): number | undefined {
    if (attempt === MAX_ATTEMPTS) return undefined;
    const { status, name, serverTime } = error;
    if (serverTime && SKEWED.test(name) && Math.abs(serverTime - (Date.now() + clockOffsetMs)) > SKEW_LIMIT_MS) {
      clockOffsetMs = serverTime - Date.now();
      return 0;
    }
    const throttled = isThrottled(error);
    // Without a status the connection failed or the answer was no JSON: each of the three may be asked again.
    if (!throttled && status !== undefined && status < 500) return undefined;
    return Math.random() * (throttled ? THROTTLE_PAUSE_MS : RETRY_PAUSE_MS) * 2 ** (attempt - 1);
  }

  async function receive(input: ReceiveMessageCommandInput, signal: AbortSignal) {
    const answer = await send<Answer<ReceiveMessageCommandOutput>>("ReceiveMessage", input, signal);
    const broken = (answer.Messages ?? []).filter(({ Body = "", MD5OfBody }) => md5(Body) !== MD5OfBody);
    if (broken.length === 0) return decodeBinaries(answer);
    throw new Error(`Invalid MD5 checksum on messages: ${broken.map(({ MessageId }) => MessageId).join(", ")}`);
  }

  return {
    receive,
    delete: (input, signal) => send("DeleteMessageBatch", input, signal),
    changeVisibility: (input, signal) => send("ChangeMessageVisibilityBatch", input, signal),
  };
}

const isThrottled = ({ status, name }: RequestError) => status === 429 || THROTTLED.test(name);

/** SQS refuses the attempt id of a receive that it has throttled: there is nothing to be received again. */
function renewed(input: { ReceiveRequestAttemptId?: string }): object {
  return input.ReceiveRequestAttemptId ? { ...input, ReceiveRequestAttemptId: crypto.randomUUID() } : input;
}

/** Bytes travel as base64 in JSON; sent on as they came they would be encoded twice. */
function decodeBinaries(answer: Answer<ReceiveMessageCommandOutput>): Answer<ReceiveMessageCommandOutput> {
  for (const { MessageAttributes = {} } of answer.Messages ?? []) {
    for (const attribute of Object.values(MessageAttributes)) {
      if (attribute.BinaryValue) attribute.BinaryValue = Buffer.from(`${attribute.BinaryValue}`, "base64");
    }
  }
  return answer;
}

/** The region, and the endpoint that was configured; otherwise the host of the queue's URL, where AWS has it. */
async function placeOf({ config }: SQSClient, queueUrl: string) {
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

/** The service's code as name, like the SDK's errors. */
async function toError(response: Response): Promise<RequestError> {
  const text = await response.text();
  const { __type, code, message, Message } = parseObject(text);
  const sent = response.headers.get("x-amzn-errortype") ?? __type ?? code ?? "";
  // com.amazonaws.sqs#Code, or Code:http://…, by the front end that answers
  const name = `${sent}`.split(":")[0]?.split("#").at(-1) || `HTTP ${response.status}`;
  const error: RequestError = new Error(`${message ?? Message ?? (text.slice(0, 200) || "no reason given")}`);
  error.name = name;
  error.status = response.status;
  error.serverTime = Date.parse(response.headers.get("date") ?? "");
  return error;
}

function parseObject(text: string): Record<string, unknown> {
  try {
    return Object(JSON.parse(text));
  } catch {
    return {};
  }
}

const md5 = (text: string) => Bun.MD5.hash(text, "hex");
