import { SQSClient } from "@aws-sdk/client-sqs";
import { FetchHttpHandler } from "@smithy/fetch-http-handler";

/** Where a queue is and how it is set; plain data, so that it can be handed to a Bun worker. */
export interface QueueAddress {
  url: string;
  /** Where rejected messages go. Absent: the queue has no redrive policy, and they stay in it. */
  deadLetterUrl?: string;
  /** Only where the environment names one; otherwise the SDK's own rules find it. */
  endpoint?: string;
  embedded: boolean;
  /** How the requests that every order pays for are sent; `fetch` where absent. */
  client?: "fetch" | "sdk";
  /** How long a received message stays invisible to others, seconds. */
  visibilityTimeoutSeconds: number;
}

/** The names of FIFO queues end so and no other's do; AWS's own way to tell them apart. */
export const isFifo = (nameOrUrl: string) => nameOrUrl.endsWith(".fifo");

/**
 * The SDK's client: region and credentials by the SDK's own rules, but for the embedded queue, which takes any.
 * The endpoint is passed on explicitly: with only the variable set, the SDK would follow the host in `QueueUrl`,
 * and that of an emulator may not resolve.
 */
export function createClient({ endpoint, embedded }: Pick<QueueAddress, "endpoint" | "embedded">): SQSClient {
  const local = {
    region: "us-east-1",
    credentials: { accessKeyId: "embedded", secretAccessKey: "embedded" },
  };
  return new SQSClient({
    ...(endpoint && { endpoint }),
    ...(embedded && local),
    // Bun's own fetch: less CPU per request than the node:http handler, and up to 256 sockets instead of 50.
    requestHandler: new FetchHttpHandler(),
  });
}

/**
 * Runs one request that must end within `deadlineMs`. Aborts it, and its connection with it, when the time is
 * over or `signal` says so; the SDK itself waits for ever.
 */
export async function withDeadline<T>(
  deadlineMs: number,
  signal: AbortSignal | undefined,
  request: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  // Not AbortSignal.timeout: its timer lives on after the answer, and thousands of requests a second would pile up.
  const controller = new AbortController();
  // Some of a request does not hear the signal: a provider of credentials may hang before the first byte is sent.
  const { promise: aborted, reject } = Promise.withResolvers<never>();
  let late = false;
  function abort() {
    controller.abort();
    reject(new Error("aborted"));
  }
  const timer = setTimeout(() => {
    late = true;
    abort();
  }, deadlineMs);
  signal?.addEventListener("abort", abort, { once: true });
  if (signal?.aborted) abort();
  try {
    return await Promise.race([request(controller.signal), aborted]);
  } catch (error) {
    throw late ? new Error(`no answer within ${deadlineMs / 1000} s`, { cause: error }) : error;
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", abort);
  }
}
