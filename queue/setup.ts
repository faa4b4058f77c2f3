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
import { withDeadline } from "../deadline.ts";
import { createClient, isFifo, type QueueAddress } from "./client.ts";
import { describeQueueError, NOT_SQS } from "./request.ts";

/** A queue given by name is created if it does not exist; one given by URL is never created or changed. */
export interface QueueName {
  name: string;
  url?: string;
  endpoint?: string;
  embedded: boolean;
  client?: "fetch" | "sdk";
}

/** After five receives without a delete, SQS moves a message to the dead-letter queue. */
const MAX_RECEIVE_COUNT = 5;
/** How long a crash delays the messages in flight. A batch takes milliseconds, and one that waits for the store extends it. */
const VISIBILITY_TIMEOUT_SECONDS = 30;
/** A batch must stay invisible until an unavailable store has failed, which takes up to five seconds: only then is it extended. */
const MIN_VISIBILITY_TIMEOUT_SECONDS = 10;
/** The longest retention that AWS allows: somebody has to look at rejected orders. */
const MAX_RETENTION_SECONDS = 14 * 24 * 3600;
/** Together longer than the one second that AWS requires between creating a queue and using it. */
const [MAX_ATTEMPTS, ATTEMPT_PAUSE_MS] = [4, 500];
/** Long enough for retries, short enough that an operator sees the error of a start that fails. */
const SETUP_DEADLINE_MS = 10_000;
/** A process or a server that provides credentials can hang. */
const CREDENTIALS_DEADLINE_MS = 5_000;

/**
 * Looks up a queue and its dead-letter queue. If the queue is given by name, creates both if they do not exist.
 *
 * @throws an Error that names the queue, the reason and what to change
 */
export async function locateQueue(wanted: QueueName): Promise<QueueAddress> {
  const client = createClient(wanted);
  try {
    return await withDeadline(SETUP_DEADLINE_MS, undefined, (signal) =>
      locateWithRetries(createSetupCalls(client, signal), wanted),
    );
  } catch (error) {
    const missing = await findMissingSettings(client, wanted);
    const reason = missing ?? `${describeQueueError(error)}. ${adviceFor(error, wanted)}`;
    throw new Error(`Cannot use the queue ${describe(wanted)}: ${reason}`, { cause: error });
  } finally {
    client.destroy();
  }
}

/**
 * For a second after a queue was created, by this process or by one that starts at the same time, AWS may respond that it does
 * not exist. The same applies to its dead-letter queue, without which rejected orders would stay in the queue.
 */
async function locateWithRetries(sqs: SetupCalls, wanted: QueueName): Promise<QueueAddress> {
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
  const queueUrl = url ?? (await sqs.findUrl(name)) ?? (await createWithDeadLetterQueue(sqs, name));
  if (!queueUrl) throw new Error(NOT_SQS);
  const attributes = await sqs.getAttributes(queueUrl);
  if (!url && !attributes.RedrivePolicy) {
    attributes.RedrivePolicy = redrivePolicy(await createDeadLetterQueue(sqs, name));
    await sqs.setAttributes(queueUrl, { RedrivePolicy: attributes.RedrivePolicy });
  }
  await sqs.checkPermissions(queueUrl);
  const deadLetterUrl =
    attributes.RedrivePolicy && (await deadLetterUrlOf(sqs, attributes.RedrivePolicy, !url && name));
  // The embedded queue stores its URL with the port of an earlier start.
  const withCurrentPort = (stored: string) =>
    embedded && endpoint ? new URL(new URL(stored).pathname, endpoint).href : stored;
  return {
    url: withCurrentPort(queueUrl),
    embedded,
    ...(deadLetterUrl && { deadLetterUrl: withCurrentPort(deadLetterUrl) }),
    ...(endpoint && { endpoint }),
    ...(client && { client }),
    ...(attributes.CreatedTimestamp && { createdAt: attributes.CreatedTimestamp }),
    ...visibilityTimeout(attributes),
    ...(await limitsOf(sqs, queueUrl, attributes, deadLetterUrl)),
  };
}

function visibilityTimeout({ VisibilityTimeout = `${VISIBILITY_TIMEOUT_SECONDS}` }: Attributes) {
  const seconds = Number(VisibilityTimeout);
  if (seconds >= MIN_VISIBILITY_TIMEOUT_SECONDS) return { visibilityTimeoutSeconds: seconds };
  return { visibilityTimeoutSeconds: VISIBILITY_TIMEOUT_SECONDS, shortVisibilityTimeoutSeconds: seconds };
}

const DAY_SECONDS = 24 * 3600;

/**
 * How long after an order was counted SQS can still deliver a copy of its message. Rq and Rd are the retention periods of the
 * queue and of its dead-letter queue, both in seconds.
 *
 * A message is counted at its send time s or later, so the result is the latest expiry of a copy, relative to s:
 * - In the queue, a copy expires at s + Rq.
 * - Standard queue: a move to the dead-letter queue keeps the send time, so a copy there expires at s + Rd. The latest possible
 *   redrive is at s + max(Rq, Rd). It is a new send, so the copy then expires at s + max(Rq, Rd) + Rq.
 * - FIFO queue: a move to the dead-letter queue resets the send time. A copy moved at s + Rq and redriven at s + Rq + Rd
 *   expires at s + 2 Rq + Rd.
 * - One day is added for differences between clocks.
 *
 * Not covered: copies that are redriven repeatedly without being received, and orders that a producer sends again.
 *
 * @see https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-dead-letter-queues.html
 */
export function copyLifetimeSeconds(fifo: boolean, retention: number, deadLetterRetention: number | undefined): number {
  if (deadLetterRetention === undefined) return retention + DAY_SECONDS;
  const longest = fifo ? retention + deadLetterRetention : Math.max(retention, deadLetterRetention);
  return retention + longest + DAY_SECONDS;
}

/** @returns the size of the largest message and the lifetime of copies, absent if unknown */
async function limitsOf(sqs: SetupCalls, url: string, attributes: Attributes, deadLetterUrl: string | undefined) {
  const retention = Number(attributes.MessageRetentionPeriod);
  const ofDeadLetterQueue = deadLetterUrl ? await sqs.getAttributes(deadLetterUrl).catch(() => undefined) : undefined;
  const deadLetterRetention = ofDeadLetterQueue ? Number(ofDeadLetterQueue.MessageRetentionPeriod) : undefined;
  const sizes = [attributes, ofDeadLetterQueue].flatMap((each) => Number(each?.MaximumMessageSize) || []);
  const size = sizes.length > 0 && { maxBytes: Math.min(...sizes) };
  // There is a dead-letter queue, but its attributes cannot be read.
  if (attributes.RedrivePolicy && deadLetterRetention === undefined) return { ...size };
  const seconds = copyLifetimeSeconds(isFifo(url), retention, deadLetterRetention);
  return { ...size, ...(Number.isFinite(seconds) && { copyLifetimeSeconds: seconds }) };
}

async function createWithDeadLetterQueue(sqs: SetupCalls, name: string): Promise<string> {
  return await sqs.create(name, {
    VisibilityTimeout: `${VISIBILITY_TIMEOUT_SECONDS}`,
    RedrivePolicy: redrivePolicy(await createDeadLetterQueue(sqs, name)),
  });
}

/** @returns the ARN of `{name}-dlq`, or of `{name}-dlq.fifo` for `{name}.fifo`. Creates the queue if it does not exist */
async function createDeadLetterQueue(sqs: SetupCalls, name: string): Promise<string> {
  const deadLetterName = deadLetterNameOf(name);
  const url =
    (await sqs.findUrl(deadLetterName)) ??
    (await sqs.create(deadLetterName, { MessageRetentionPeriod: `${MAX_RETENTION_SECONDS}` }));
  return (await sqs.getAttributes(url)).QueueArn ?? "";
}

/** AWS requires the dead-letter queue of a FIFO queue to be a FIFO queue. */
const deadLetterNameOf = (name: string) => name.replace(/(\.fifo)?$/, "-dlq$1");

const redrivePolicy = (deadLetterTargetArn: string) =>
  JSON.stringify({ deadLetterTargetArn, maxReceiveCount: MAX_RECEIVE_COUNT });

/** @param owner the queue given by name, whose own dead-letter queue is created again if it is missing */
async function deadLetterUrlOf(sqs: SetupCalls, policy: string, owner: string | false): Promise<string | undefined> {
  // arn:aws:sqs:region:account:name
  const [account, name = ""] = (JSON.parse(policy).deadLetterTargetArn as string).split(":").slice(-2);
  const url = await sqs.findUrl(name, account);
  if (url || !owner || name !== deadLetterNameOf(owner)) return url;
  await createDeadLetterQueue(sqs, owner);
  return await sqs.findUrl(name, account);
}

type SetupCalls = ReturnType<typeof createSetupCalls>;

function createSetupCalls(client: SQSClient, abortSignal: AbortSignal) {
  const options = { abortSignal };

  /** @returns undefined if there is no such queue */
  async function findUrl(name: string, account?: string): Promise<string | undefined> {
    try {
      const owner = account && { QueueOwnerAWSAccountId: account };
      const command = new GetQueueUrlCommand({ QueueName: name, ...owner });
      return (await nameDenied("GetQueueUrl", client.send(command, options))).QueueUrl;
    } catch (error) {
      if (error instanceof Error && error.name === "QueueDoesNotExist") return undefined;
      throw error;
    }
  }

  async function create(name: string, Attributes: Attributes): Promise<string> {
    try {
      // Absent for a standard queue: AWS does not accept "false".
      const fifoAttribute = isFifo(name) && { FifoQueue: "true" };
      const command = new CreateQueueCommand({ QueueName: name, Attributes: { ...Attributes, ...fifoAttribute } });
      return (await nameDenied("CreateQueue", client.send(command, options))).QueueUrl ?? "";
    } catch (error) {
      // Another process has created it with other attributes: use that queue.
      const url = error instanceof Error && error.name === "QueueNameExists" ? await findUrl(name) : undefined;
      if (url) return url;
      throw error;
    }
  }

  async function getAttributes(url: string): Promise<Attributes> {
    const command = new GetQueueAttributesCommand({ QueueUrl: url, AttributeNames: ["All"] });
    return (await nameDenied("GetQueueAttributes", client.send(command, options))).Attributes ?? {};
  }

  async function setAttributes(url: string, Attributes: Attributes) {
    const command = new SetQueueAttributesCommand({ QueueUrl: url, Attributes });
    await nameDenied("SetQueueAttributes", client.send(command, options));
  }

  /**
   * Checks the permissions that would otherwise be missed only after orders were received, with an invalid receipt handle. The
   * permissions to receive and to send cannot be checked without side effects; /health and the log report those.
   */
  async function checkPermissions(QueueUrl: string) {
    const entry = { Id: "0", ReceiptHandle: "probe" };
    const deletion = new DeleteMessageBatchCommand({ QueueUrl, Entries: [entry] });
    const entryToHide = { ...entry, VisibilityTimeout: 0 };
    const visibility = new ChangeMessageVisibilityBatchCommand({ QueueUrl, Entries: [entryToHide] });
    const results = await Promise.allSettled([
      nameDenied("DeleteMessage", client.send(deletion, options)),
      nameDenied("ChangeMessageVisibility", client.send(visibility, options)),
    ]);
    const denied = results.flatMap((result) =>
      result.status === "rejected" && result.reason instanceof AccessDenied ? [result.reason] : [],
    );
    if (denied.length > 0) throw new AccessDenied(denied.map(({ action }) => action).join(" and "));
  }

  return { findUrl, create, getAttributes, setAttributes, checkPermissions };
}

/** SQS denied an action: a permission is missing. */
class AccessDenied extends Error {
  constructor(
    readonly action: string,
    options?: ErrorOptions,
  ) {
    super(`${action} is not allowed`, options);
  }
}

/**
 * Adds the action to the error of a denied request: the message of AWS is long, and other services do not name the action.
 *
 * @throws an `AccessDenied`, or the error of the request
 */
async function nameDenied<T>(action: string, response: Promise<T>): Promise<T> {
  return await response.catch((cause) => {
    throw /AccessDenied|NotAuthorized/.test(cause.name) ? new AccessDenied(`sqs:${action}`, { cause }) : cause;
  });
}

type Attributes = Partial<Record<QueueAttributeName, string>>;

function describe({ name, url, endpoint }: QueueName): string {
  return url ?? (endpoint ? `${name} at ${endpoint}` : name);
}

/** @returns a sentence with everything that the SDK lacks before it can send a request; undefined if nothing is missing */
async function findMissingSettings(
  { config }: SQSClient,
  { endpoint, url = "" }: QueueName,
): Promise<string | undefined> {
  const problems: string[] = [];
  const settings: string[] = [];
  // Region is missing, or not accepted: region="eu west" is not a valid hostname component.
  await config.region().catch((error) => {
    problems.push(describeQueueError(error));
    const [, region = "us-east-1"] = /\/\/sqs\.([\w-]+)\.amazonaws/.exec(url) ?? [];
    settings.push(`AWS_REGION=${region}`);
  });
  await withDeadline(CREDENTIALS_DEADLINE_MS, undefined, () => config.credentials()).catch((error) => {
    const isMissing = /^Could not load credentials from any/.test(error.message);
    problems.push(`AWS credentials ${isMissing ? "are missing" : `cannot be read: ${describeQueueError(error)}`}`);
    settings.push("AWS_ACCESS_KEY_ID=…", "AWS_SECRET_ACCESS_KEY=…");
  });
  if (problems.length === 0) return undefined;
  const emulator = endpoint ? " (an emulator accepts any values)" : "";
  return `${problems.join("; ")}. Set for example ${settings.join(" ")}${emulator}`;
}

function adviceFor(error: unknown, { embedded, url, endpoint }: QueueName): string {
  const name = error instanceof Error ? error.name : "";
  if (name === "QueueDoesNotExist") return "Create it, or set SQS_QUEUE_NAME to have it created";
  if (error instanceof AccessDenied) return "docs/aws.md lists the permissions that the program needs";
  if (/UnrecognizedClient|InvalidClientTokenId|SignatureDoesNotMatch/.test(name)) return "Check the AWS credentials";
  if (embedded) return "Is `bun run start` running?";
  if (!url && !endpoint)
    return "Check AWS_REGION and the network, or set AWS_ENDPOINT_URL for another service than AWS";
  return "Check AWS_ENDPOINT_URL and SQS_QUEUE_URL, with http:// or https://, and that the service is running";
}
