import {
  ChangeMessageVisibilityBatchCommand,
  CreateQueueCommand,
  DeleteMessageBatchCommand,
  GetQueueAttributesCommand,
  GetQueueUrlCommand,
  type QueueAttributeName,
  SetQueueAttributesCommand,
  type SQSClient,
} from "@aws-sdk/client-sqs";
import { createClient, isFifo, type QueueAddress, withDeadline } from "./client.ts";
import { reasonOf } from "./queue.ts";

/** A queue by name is created where missing; one by URL is never created or changed. */
export interface QueueName {
  name: string;
  url?: string;
  endpoint?: string;
  embedded: boolean;
  client?: "fetch" | "sdk";
}

/** After five receives an order that nobody could settle goes to the dead-letter queue. */
const MAX_RECEIVE_COUNT = 5;
/** A batch is settled in milliseconds; 30 s is what a crashed process costs in delay, and a held batch extends it. */
const VISIBILITY_TIMEOUT_SECONDS = 30;
/** AWS's longest: rejected orders wait for a person. */
const MAX_RETENTION_SECONDS = 14 * 24 * 3600;
/** Together longer than the second that AWS names. */
const [MAX_ATTEMPTS, ATTEMPT_PAUSE_MS] = [4, 500];
/** A start that cannot reach its queue should say so while somebody is still looking. */
const SETUP_DEADLINE_MS = 10_000;

/** Finds the queue, creating it and its dead-letter queue where allowed. Rejects with one sentence. */
export async function locateQueue(wanted: QueueName): Promise<QueueAddress> {
  const client = createClient(wanted);
  try {
    return await withDeadline(SETUP_DEADLINE_MS, undefined, (signal) => locateSoon(setupCalls(client, signal), wanted));
  } catch (error) {
    throw new Error(`Cannot use the queue ${describe(wanted)}: ${reasonOf(error)}. ${adviceFor(error, wanted)}`, {
      cause: error,
    });
  } finally {
    client.destroy();
  }
}

/**
 * AWS may not know a queue everywhere for a second after it was created, by this process or by one that starts beside it;
 * nor its dead-letter queue, without which rejected orders would stay in the queue.
 */
async function locateSoon(sqs: SetupCalls, wanted: QueueName): Promise<QueueAddress> {
  for (let attempt = 1; ; attempt++) {
    const last = wanted.url !== undefined || attempt === MAX_ATTEMPTS;
    try {
      const address = await locate(sqs, wanted);
      if (address.deadLetterUrl || last) return address;
    } catch (error) {
      if (last || !(error instanceof Error && error.name === "QueueDoesNotExist")) throw error;
    }
    await Bun.sleep(ATTEMPT_PAUSE_MS);
  }
}

async function locate(sqs: SetupCalls, { name, url, endpoint, embedded, client }: QueueName): Promise<QueueAddress> {
  const queueUrl = url ?? (await sqs.find(name)) ?? (await createWithDeadLetterQueue(sqs, name));
  const attributes = await sqs.attributes(queueUrl);
  if (!url && !attributes.RedrivePolicy) {
    attributes.RedrivePolicy = redrivePolicy(await createDeadLetterQueue(sqs, name));
    await sqs.set(queueUrl, { RedrivePolicy: attributes.RedrivePolicy });
  }
  await sqs.probeRights(queueUrl);
  const deadLetterUrl = attributes.RedrivePolicy && (await deadLetterUrlOf(sqs, attributes.RedrivePolicy));
  // The embedded queue remembers its URL with the port of an earlier start.
  const rebased = (each: string) => (embedded && endpoint ? new URL(new URL(each).pathname, endpoint).href : each);
  return {
    url: rebased(queueUrl),
    embedded,
    ...(deadLetterUrl && { deadLetterUrl: rebased(deadLetterUrl) }),
    ...(endpoint && { endpoint }),
    ...(client && { client }),
    visibilityTimeoutSeconds: Number(attributes.VisibilityTimeout ?? VISIBILITY_TIMEOUT_SECONDS),
  };
}

async function createWithDeadLetterQueue(sqs: SetupCalls, name: string): Promise<string> {
  return await sqs.create(name, {
    VisibilityTimeout: `${VISIBILITY_TIMEOUT_SECONDS}`,
    RedrivePolicy: redrivePolicy(await createDeadLetterQueue(sqs, name)),
  });
}

/** Answers the ARN of `{name}-dlq`, or of `{name}-dlq.fifo` for `{name}.fifo`, creating it where missing. */
async function createDeadLetterQueue(sqs: SetupCalls, name: string): Promise<string> {
  // AWS: the dead-letter queue of a FIFO queue is a FIFO queue.
  const deadLetterName = name.replace(/(\.fifo)?$/, "-dlq$1");
  const url =
    (await sqs.find(deadLetterName)) ??
    (await sqs.create(deadLetterName, { MessageRetentionPeriod: `${MAX_RETENTION_SECONDS}` }));
  return (await sqs.attributes(url)).QueueArn ?? "";
}

const redrivePolicy = (deadLetterTargetArn: string) =>
  JSON.stringify({ deadLetterTargetArn, maxReceiveCount: MAX_RECEIVE_COUNT });

async function deadLetterUrlOf(sqs: SetupCalls, policy: string): Promise<string | undefined> {
  // arn:aws:sqs:region:account:name
  const [account, name] = (JSON.parse(policy).deadLetterTargetArn as string).split(":").slice(-2);
  return await sqs.find(name ?? "", account);
}

type SetupCalls = ReturnType<typeof setupCalls>;

function setupCalls(client: SQSClient, abortSignal: AbortSignal) {
  const options = { abortSignal };

  async function find(name: string, account?: string): Promise<string | undefined> {
    try {
      const owner = account && { QueueOwnerAWSAccountId: account };
      const command = new GetQueueUrlCommand({ QueueName: name, ...owner });
      return (await allowed("GetQueueUrl", client.send(command, options))).QueueUrl;
    } catch (error) {
      if (error instanceof Error && error.name === "QueueDoesNotExist") return undefined;
      throw error;
    }
  }

  async function create(name: string, Attributes: Attributes): Promise<string> {
    try {
      // Left out for a standard queue: AWS knows no "false" there.
      const kind = isFifo(name) && { FifoQueue: "true" };
      const command = new CreateQueueCommand({ QueueName: name, Attributes: { ...Attributes, ...kind } });
      return (await allowed("CreateQueue", client.send(command, options))).QueueUrl ?? "";
    } catch (error) {
      // Another process created it first, with other attributes: that one is as good.
      const url = error instanceof Error && error.name === "QueueNameExists" ? await find(name) : undefined;
      if (url) return url;
      throw error;
    }
  }

  async function attributes(url: string): Promise<Attributes> {
    const command = new GetQueueAttributesCommand({ QueueUrl: url, AttributeNames: ["All"] });
    return (await allowed("GetQueueAttributes", client.send(command, options))).Attributes ?? {};
  }

  async function set(url: string, Attributes: Attributes) {
    const command = new SetQueueAttributesCommand({ QueueUrl: url, Attributes });
    await allowed("SetQueueAttributes", client.send(command, options));
  }

  /**
   * Asks for what would only be missed with orders in hand, by a receipt handle that is nobody's. Receiving and
   * sending cannot be tried without doing them; they are named by /health and the log.
   */
  async function probeRights(QueueUrl: string) {
    const entry = { Id: "0", ReceiptHandle: "probe" };
    const remove = new DeleteMessageBatchCommand({ QueueUrl, Entries: [entry] });
    const hide = new ChangeMessageVisibilityBatchCommand({ QueueUrl, Entries: [{ ...entry, VisibilityTimeout: 0 }] });
    const probes = await Promise.allSettled([
      allowed("DeleteMessage", client.send(remove, options)),
      allowed("ChangeMessageVisibility", client.send(hide, options)),
    ]);
    const denied = probes.flatMap((probe) =>
      probe.status === "rejected" && probe.reason instanceof AccessDenied ? [probe.reason] : [],
    );
    if (denied.length > 0) throw new AccessDenied(denied.map(({ action }) => action).join(" and "));
  }

  return { find, create, attributes, set, probeRights };
}

/** Caught where several rights are asked for at once. */
class AccessDenied extends Error {
  constructor(
    readonly action: string,
    options?: ErrorOptions,
  ) {
    super(`${action} is not allowed`, options);
  }
}

/** Names the action that was refused; AWS says it in many words, other services not at all. */
async function allowed<T>(action: string, answer: Promise<T>): Promise<T> {
  return await answer.catch((cause) => {
    throw /AccessDenied|NotAuthorized/.test(cause.name) ? new AccessDenied(`sqs:${action}`, { cause }) : cause;
  });
}

type Attributes = Partial<Record<QueueAttributeName, string>>;

function describe({ name, url, endpoint }: QueueName): string {
  return url ?? (endpoint ? `${name} at ${endpoint}` : name);
}

function adviceFor(error: unknown, { embedded }: QueueName): string {
  const name = error instanceof Error ? error.name : "";
  if (name === "QueueDoesNotExist") return "Create it, or name it with SQS_QUEUE_NAME to have it created";
  if (name === "CredentialsProviderError")
    return "Give AWS credentials, e.g. AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY";
  if (/region is missing/i.test(String(error))) return "Set AWS_REGION";
  if (error instanceof AccessDenied) return "README lists the rights that the program needs";
  if (/UnrecognizedClient|InvalidClientTokenId|SignatureDoesNotMatch/.test(name)) return "Check the AWS credentials";
  if (embedded) return "Is `bun run start` running?";
  return "Check AWS_ENDPOINT_URL and SQS_QUEUE_URL, and that the service is running";
}
