/** `bun scripts/redrive.ts`: lists the dead-letter queue, and moves its messages back to the queue or to a file. */

import { existsSync, fstatSync, fsyncSync, openSync, readSync, writeFileSync } from "node:fs";
import { GetQueueUrlCommand } from "@aws-sdk/client-sqs";
import { type QueueConfig, readConfig } from "../config.ts";
import { openEnvelope } from "../consumer/envelope.ts";
import { messageOf } from "../errors.ts";
import { createClient } from "../queue/client.ts";
import type { Message } from "../queue/message.ts";
import { openQueue } from "../queue/queue.ts";
import { describeQueueError } from "../queue/request.ts";
import { locateQueue } from "../queue/setup.ts";
import { openStore, type StoreAddress } from "../store/open.ts";
import { stateOf } from "../store/order-history.ts";
import { formatNumber, pluralize, printable } from "../text.ts";
import { type CommandResult, type Context, createCommand, UsageError, type Values } from "./cli.ts";
import { type Copy, describe, format, shorten, sweep, VISIBILITY_TIMEOUT_SECONDS } from "./dead-letters.ts";

const REASONS = "invalid_json, invalid_order, value_mismatch, none (moved by SQS: received too often)";
const OPTIONS = {
  reason: { type: "text", multiple: true, help: `only ${REASONS}, or of another program` },
  "order-id": {
    type: "text",
    multiple: true,
    help: "only messages whose order has this order_id; a list ends with its state",
  },
  limit: { type: "integer", help: "maximum number of messages" },
  "dry-run": { help: "list what would be moved, and change nothing" },
} as const;

export const redrive = createCommand({
  description: "Lists the dead-letter queue, and moves its messages back to the queue or to a file.",
  usage: "bun scripts/redrive.ts [list | back | file PATH] [options]",
  positionals: {
    list: "show reason, errors and the start of the body of each message; the default",
    back: "move messages to the queue that `bun run start` reads, with body and attributes of the sender",
    "file PATH": "append messages to a file, one JSON object per line: message_id, reason, errors, body, sent_at",
  },
  options: OPTIONS,
  notes: `With --json, messages are printed one per line, the counts last. A message is deleted when its copy is in the
queue or on disk: a kill loses none, but may leave one in both places. Moved back twice, it counts as a duplicate as long
as the program remembers order ids (docs/glossary.md, "marker window"). Messages that are not moved are in flight until
the command ends, after a kill for up to ${VISIBILITY_TIMEOUT_SECONDS / 60} minutes. Messages that arrive during "back" stay: they may be the same, rejected again.
Each run counts as a receive, should the dead-letter queue have a redrive policy. The queue is found by the environment
variables of the program.`,
  examples: [
    "bun scripts/redrive.ts",
    "bun scripts/redrive.ts back --reason none --limit 10 --dry-run",
    "bun scripts/redrive.ts file rejected.jsonl --reason invalid_json,invalid_order",
  ],
  finishesOnInterrupt: true,
  run,
});

async function run(options: Values<typeof OPTIONS>, context: Context): Promise<CommandResult> {
  const { action, path } = readAction(context.positionals);
  const config = readConfig(context.env);
  const { queue, deadLetters } = await openQueues(config.queue);
  const { limit = Number.MAX_SAFE_INTEGER, json } = options;
  const selects = options.reason !== undefined || options["order-id"] !== undefined;
  const { signal, print, printToStderr, progress } = context;
  const moves = action !== "list" && !options["dry-run"];
  // Messages that arrive while others are moved back may be the same, rejected again: moving those would never end.
  const sentBeforeMs = action === "back" ? Date.now() : Number.POSITIVE_INFINITY;
  const { visible, inFlight } = await deadLetters.depth();
  const elsewhere = `${pluralize(inFlight, "message")} that another consumer has in flight`;
  if (inFlight > 0) await printToStderr(`Not received: about ${elsewhere}`);
  // Few of the messages received may be selected: progress is then the number received.
  const unit = selects ? "received message" : "message";
  const update = moves ? progress(selects ? visible : Math.min(visible, limit), unit) : undefined;
  let newer = 0;
  const { counts, problems } = await sweep(deadLetters, {
    copy: moves ? (path ? appendTo(path) : queue.redrive) : undefined,
    list: (message) => print(...(json ? [JSON.stringify(describe(message))] : format(message))),
    isSelected(message) {
      const isNew = message.sentAtMs > sentBeforeMs;
      if (isNew) newer++;
      return !isNew && isSelected(message, options);
    },
    limit,
    signal,
    onProgress: ({ received, moved }) => update?.(selects ? received : moved),
  });
  if (newer > 0)
    await printToStderr(
      `Not moved: ${pluralize(newer, "message")} sent after the start of this command, by this clock`,
    );
  const failed = moves ? counts.matched - counts.moved : 0;
  // More may have been received than there were at the start: messages arrive meanwhile.
  const remaining = Math.max(visible + inFlight, counts.received) - counts.moved;
  const lines = [summaryOf(counts)];
  const target = path ?? queue.address.url;
  const rest = `Failed: ${failed}. Left in the dead-letter queue: about ${remaining}`;
  if (moves) lines.push(`Moved ${pluralize(counts.moved, "message")} to ${target}. ${rest}`);
  else if (action !== "list") lines.push(`Would move ${pluralize(counts.matched, "message")} to ${target}`);
  if (action === "list" && !json) lines.push(...(await describeOrders(options["order-id"] ?? [], config.store)));
  return { lines, json: { ...counts, failed, remaining }, problems: [...problems] };
}

/** @returns a line with the state of each order in the store, or why it cannot be read. None where there is no store */
async function describeOrders(ids: string[], address: StoreAddress): Promise<string[]> {
  // A file that does not exist must not be created.
  if (ids.length === 0 || (address.kind === "sqlite" && !existsSync(address.path))) return [];
  try {
    const store = await openStore(address);
    const states = ids.map(async (id) => stateOf(await store.isCounted(id), await store.history(id)));
    const found = await Promise.all(states).finally(store.close);
    return ids.map((id, index) => `State of order ${shorten(id)}: ${found[index]}`);
  } catch (error) {
    return [`The state of the order is not known: ${messageOf(error)}`];
  }
}

function isSelected(message: Message, { reason: reasons, "order-id": orderIds }: Values<typeof OPTIONS>): boolean {
  const { reason } = describe(message);
  // The reason itself, or the form in which it is listed.
  const hasReason = reasons?.some((wanted) => wanted === reason || wanted === shorten(reason)) ?? true;
  return hasReason && (orderIds?.includes(orderIdOf(message)) ?? true);
}

/** @returns the order id in the body, "" if there is none. A rejected order may have a number instead of a text */
function orderIdOf({ body }: Message): string {
  try {
    const sent = JSON.parse(body);
    const { order_id } = Object(openEnvelope(sent)?.content ?? sent);
    return ["string", "number"].includes(typeof order_id) ? `${order_id}` : "";
  } catch {
    return "";
  }
}

function summaryOf({ matched, reasons }: { matched: number; reasons: Record<string, number> }): string {
  const each = Object.entries(reasons).map(([reason, count]) => `${formatNumber(count)} ${shorten(reason)}`);
  return pluralize(matched, "message") + (matched > 0 ? `: ${each.join(", ")}` : "");
}

/** @throws UsageError for anything but list, back and file PATH */
function readAction([action = "list", ...parameters]: string[]) {
  const unexpected = ["list", "back", "file"].includes(action) ? parameters[action === "file" ? 1 : 0] : action;
  if (unexpected !== undefined) throw new UsageError([`Unexpected argument '${unexpected}': see --help`]);
  if (action === "file" && !parameters[0]) throw new UsageError(["file needs a PATH: see --help"]);
  return { action, path: parameters[0] };
}

/** Opens both by URL: a queue by name would be created if it is missing. */
async function openQueues(config: QueueConfig) {
  const embedded = config.kind === "embedded";
  const endpoint = embedded ? `http://127.0.0.1:${config.port}` : config.endpoint;
  const location = { name: config.name, embedded, ...(endpoint && { endpoint }) };
  const url = embedded ? `${endpoint}/000000000000/${config.name}` : (config.url ?? (await findUrl(location)));
  const address = await locateQueue({ ...location, url });
  if (!address.deadLetterUrl) throw new Error(`The queue ${url} has no dead-letter queue`);
  return { queue: openQueue(address), deadLetters: openQueue({ ...address, url: address.deadLetterUrl }) };
}

async function findUrl({ name, ...location }: { name: string; embedded: boolean; endpoint?: string }): Promise<string> {
  try {
    const [client, abortSignal] = [createClient(location), AbortSignal.timeout(10_000)];
    return (await client.send(new GetQueueUrlCommand({ QueueName: name }), { abortSignal })).QueueUrl ?? "";
  } catch (error) {
    throw new Error(`Cannot find the queue ${name}: ${describeQueueError(error)}`, { cause: error });
  }
}

/** @returns a `Copy` that appends to a file. It resolves when the messages are on disk. */
function appendTo(path: string): Copy {
  const file = openSync(path, "a+", 0o600);
  return async (batch) => {
    const last = Buffer.from("\n");
    const { size } = fstatSync(file);
    if (size > 0) readSync(file, last, 0, 1, size - 1);
    // A killed run or a full disk may have left half a line. Its message is still in the dead-letter queue.
    const lines = batch.map((message) => `${printable(JSON.stringify(describe(message)))}\n`);
    writeFileSync(file, (last.toString() === "\n" ? "" : "\n") + lines.join(""));
    fsyncSync(file);
    return [];
  };
}

if (import.meta.main) process.exit(await redrive(process.argv.slice(2), Bun.env));
