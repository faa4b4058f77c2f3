import { SQSClient } from "@aws-sdk/client-sqs";
import { defaultProvider } from "@aws-sdk/credential-provider-node";
import { FetchHttpHandler } from "@smithy/fetch-http-handler";

/** The address and settings of a queue. Plain data, so that it can be passed to a Bun worker. */
export interface QueueAddress {
  url: string;
  /** URL of the dead-letter queue. Absent: the queue has no redrive policy, and rejected messages stay in it. */
  deadLetterUrl?: string;
  /** Set if the environment configures one; otherwise the SDK chooses the endpoint. */
  endpoint?: string;
  embedded: boolean;
  /** How receives, deletes and visibility changes are sent; `fetch` if absent. */
  client?: "fetch" | "sdk";
  /** How long a received message stays invisible to other consumers, seconds. Each receive asks for it. */
  visibilityTimeoutSeconds: number;
  /** The timeout of the queue itself, set only if it is too short. */
  shortVisibilityTimeoutSeconds?: number;
  /** The largest message that both the queue and its dead-letter queue accept, bytes; absent if unknown. */
  maxBytes?: number;
  /** When the queue was created, as SQS reports it: it differs once the queue was created again. */
  createdAt?: string;
  /** How long after an order was counted a copy of its message can still be delivered, seconds; absent if unknown. */
  copyLifetimeSeconds?: number;
}

/** @returns whether a queue is a FIFO queue. AWS requires the suffix for FIFO queues and does not allow it for others. */
export const isFifo = (nameOrUrl: string) => nameOrUrl.endsWith(".fifo");

/**
 * @returns an SDK client. The SDK resolves region and credentials itself, except for the embedded queue, which accepts any.
 *   The endpoint is passed explicitly: if only the environment variable is set, the SDK uses the host in `QueueUrl`, and the
 *   host in an emulator's queue URL may not resolve.
 */
export function createClient({ endpoint, embedded }: Pick<QueueAddress, "endpoint" | "embedded">): SQSClient {
  const embeddedOptions = {
    region: "us-east-1",
    credentials: { accessKeyId: "embedded", secretAccessKey: "embedded" },
  };
  return new SQSClient({
    ...(endpoint && { endpoint }),
    ...(embedded && embeddedOptions),
    // Bun's fetch uses less CPU per request than the node:http handler, and up to 256 sockets instead of 50. SQS does not
    // redirect, and a signed request must not be sent to another server.
    requestHandler: new FetchHttpHandler({ requestInit: () => ({ redirect: "manual" }) }),
    // Otherwise a profile is read from its file only once, also after the file has changed.
    credentialDefaultProvider: (init) => defaultProvider({ ...init, ignoreCache: true }),
    // `openQueue` checks the bodies of received messages. The SDK would also reject responses without any checksum.
    md5: false,
  });
}
