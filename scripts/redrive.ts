/** `bun scripts/redrive.ts`: shows what lies in the dead-letter queue, and moves it back to the queue or to a file. */

import { fstatSync, fsyncSync, openSync, readSync, writeFileSync } from "node:fs";
import { GetQueueUrlCommand } from "@aws-sdk/client-sqs";
import { type QueueConfig, readConfig } from "../config.ts";
import { createClient, isFifo } from "../queue/client.ts";
import { type Failure, type Message, openQueue, type Queue, reasonOf } from "../queue/queue.ts";
import { locateQueue } from "../queue/setup.ts";
import { type Context, createCommand, type Result, type Values } from "./command.ts";

/** What stays is released at the end; this long is the price of a kill. A look at 100,000 messages takes minutes. */
const HIDE_SECONDS = 30 * 60;
/** AWS allows 120,000 messages in flight, and others may hold some. */
const MAX_HELD = 110_000;
/** Batches at a time: they hide the network of a real queue. */
const LANES = 8;
const REASONS = ["invalid_json", "invalid_order", "value_mismatch", "none"] as const;
const OPTIONS = {
  reason: { takes: REASONS, many: true, about: `only ${REASONS.join(", ")} (received too often: SQS moved it)` },
  limit: { takes: "integer", about: "at most so many messages" },
  "dry-run": { about: "shows what would move and changes nothing" },
} as const;

export const redrive = createCommand({
  about: "Shows what lies in the dead-letter queue, and moves it back to the queue or to a file.",
  usage: "bun scripts/redrive.ts [list | back | file PATH] [options]",
  words: {
    list: "shows reason, errors and the start of the body of each message; the default",
    back: "moves messages to the queue that `bun run start` reads, bodies and own attributes unchanged",
    "file PATH": "moves them to the end of a file, one JSON object a line: message_id, reason, errors, body, sent_at",
  },
  options: OPTIONS,
  notes: `With --json the messages shown are a line each, the counts the last one. A message is deleted only when its copy is in
the queue or on disk: a kill loses none, but may leave one in both places. Moved back again it is a duplicate, as long as
the program remembers order ids (at least 29 days). What stays is hidden from others until the end or Ctrl-C; after a kill,
for up to ${HIDE_SECONDS / 60} minutes. What arrives while messages move back stays: it may be the same, rejected again. Every look
counts as a receive, should the dead-letter queue have a redrive policy of its own. The program's environment variables
name the queue.`,
  examples: [
    "bun scripts/redrive.ts",
    "bun scripts/redrive.ts back --reason none --limit 10 --dry-run",
    "bun scripts/redrive.ts file rejected.jsonl --reason invalid_json,invalid_order",
  ],
  settles: true,
  run,
});

/** Puts at most ten messages somewhere and answers those that were refused. */
type Copy = (batch: Message[]) => Promise<Failure[]>;

async function run(options: Values<typeof OPTIONS>, context: Context): Promise<Result> {
  const [word = "list", path] = context.words;
  const { queue, deadLetters } = await openQueues(readConfig(context.env).queue);
  const moves = word !== "list" && !options["dry-run"];
  const copy = path ? appendTo : () => queue.redrive;
  const { problems, counts } = await sweep(deadLetters, moves ? copy(`${path}`) : undefined, options, context);
  const { matched, reasons, moved, kept, failed } = counts;
  const each = Object.entries(reasons).map(([reason, count]) => `${count} ${reason}`);
  const all = `${matched} messages${matched > 0 ? ": " : ""}${each.join(", ")}`;
  const to = path ?? queue.address.url;
  const what = moves ? `Moved ${moved} to ${to}, kept ${kept}, failed ${failed}` : `Would move ${matched} to ${to}`;
  return { json: counts, text: word === "list" ? all : `${all}\n${what}`, problems };
}

/** Finds them by URL: a queue that goes by name would be created where it is missing. */
async function openQueues(wanted: QueueConfig) {
  const embedded = wanted.kind === "embedded";
  const endpoint = embedded ? `http://127.0.0.1:${wanted.port}` : wanted.endpoint;
  const where = { name: wanted.name, embedded, ...(endpoint && { endpoint }) };
  const url = embedded ? `${endpoint}/000000000000/${wanted.name}` : (wanted.url ?? (await find(where)));
  const address = await locateQueue({ ...where, url });
  if (!address.deadLetterUrl) throw new Error(`The queue ${url} has no dead-letter queue`);
  return { queue: openQueue(address), deadLetters: openQueue({ ...address, url: address.deadLetterUrl }) };
}

async function find({ name, ...where }: { name: string; embedded: boolean; endpoint?: string }): Promise<string> {
  try {
    const [client, abortSignal] = [createClient(where), AbortSignal.timeout(10_000)];
    return (await client.send(new GetQueueUrlCommand({ QueueName: name }), { abortSignal })).QueueUrl ?? "";
  } catch (error) {
    throw new Error(`Cannot find the queue ${name}: ${reasonOf(error)}`, { cause: error });
  }
}

/** Appends to a file, and answers when all is on disk. */
function appendTo(path: string): Copy {
  const file = openSync(path, "a+", 0o600);
  return async (batch) => {
    const last = Buffer.from("\n");
    const { size } = fstatSync(file);
    if (size > 0) readSync(file, last, 0, 1, size - 1);
    // Half a line, of a killed run or a full disk, is ended first: its message is still in the dead-letter queue.
    const lines = batch.map((message) => `${asJson(message)}\n`);
    writeFileSync(file, (last.toString() === "\n" ? "" : "\n") + lines.join(""));
    fsyncSync(file);
    return [];
  };
}

/** Receives every message once, shows those that are asked for, or moves them by `copy`, and releases what stays. */
async function sweep(deadLetters: Queue, copy: Copy | undefined, options: Values<typeof OPTIONS>, context: Context) {
  const { reason: reasons, limit = Number.MAX_SAFE_INTEGER, json } = options;
  const { words, signal, print, note, progress } = context;
  const counts = { looked: 0, matched: 0, reasons: {} as Record<string, number>, moved: 0 };
  const problems = new Set<string>();
  const held = new Map<string, Message>();
  const startedAtMs = Date.now();
  const { visible, inFlight } = await deadLetters.depth();
  if (inFlight > 0) await note(`About ${inFlight} further messages are hidden: another receive holds them`);
  const update = copy && progress(reasons ? visible : Math.min(visible, limit), "messages");
  // What arrives while messages move back may be the same ones, rejected again: moving those would never end.
  const isWanted = (message: Message) =>
    (reasons?.some((reason) => reason === record(message).reason) ?? true) &&
    (words[0] !== "back" || message.sentAtMs <= startedAtMs);

  async function look(): Promise<boolean> {
    if (signal.aborted || counts.matched >= limit || held.size >= MAX_HELD) return false;
    // With a wait SQS asks all of its servers. Not by `signal`: a receive cut off would leave its messages hidden.
    const received = await deadLetters.receive(1, new AbortController().signal, HIDE_SECONDS);
    // One that comes again, because the look outlasts the hiding or SQS delivers twice, is known by its id.
    const fresh = received.filter(({ id }) => !held.has(id));
    for (const message of received) held.set(message.id, { ...message, body: "", attributes: {} });
    const matched = fresh.filter(isWanted).slice(0, Math.max(0, limit - counts.matched));
    counts.looked += fresh.length;
    counts.matched += matched.length;
    for (const { reason } of matched.map(record)) counts.reasons[reason] = (counts.reasons[reason] ?? 0) + 1;
    update?.(counts.looked);
    if (!copy) for (const message of matched) await print(json ? asJson(message) : asText(message));
    return copy && matched.length > 0 ? await move(matched, copy) : received.length > 0;
  }

  /** Copies first and deletes then: a kill between the two leaves a second copy, and never none. False: none moved. */
  async function move(batch: Message[], copy: Copy): Promise<boolean> {
    const failures = await copy(batch);
    failures.push(...(await deadLetters.delete(without(batch, failures))));
    const moved = without(batch, failures);
    for (const { id } of moved) held.delete(id);
    counts.moved += moved.length;
    for (const { reason } of failures) problems.add(`Cannot move a message: ${reason}`);
    return moved.length > 0;
  }

  /** No more of a group than one receive brought can be seen: released, the same messages would come again. */
  async function lookBehind(): Promise<boolean> {
    const { visible } = await deadLetters.depth();
    const reason = "SQS shows no more of a group while some of it stays";
    if (visible > 0) problems.add(`About ${visible} further messages are behind these: ${reason}`);
    return false;
  }

  async function release(): Promise<boolean> {
    const batch = [...held.values().take(10)];
    for (const { id } of batch) held.delete(id);
    for (const { reason } of await deadLetters.changeVisibility(batch, 0))
      problems.add(`Cannot release a message: ${reason}`);
    return batch.length > 0;
  }

  /** Repeats a step until it answers that nothing is left. A batch that fails as a whole ends its lane. */
  async function lane(step: () => Promise<boolean>) {
    try {
      while (await step());
    } catch (error) {
      problems.add(reasonOf(error));
    }
  }

  const lanes = Array.from({ length: Math.min(LANES, Math.ceil(limit / 10)) });
  await Promise.all(lanes.map(() => lane(look)));
  if (held.size >= MAX_HELD) problems.add(`There may be more: one look holds at most ${MAX_HELD} messages`);
  if (isFifo(deadLetters.address.url) && counts.matched < limit) await lane(lookBehind);
  await Promise.all(lanes.map(() => lane(release)));
  const failed = copy ? counts.matched - counts.moved : 0;
  return { counts: { ...counts, kept: counts.looked - counts.moved - failed, failed }, problems: [...problems] };
}

const without = (batch: Message[], failures: Failure[]) =>
  batch.filter((message) => !failures.some((failure) => failure.message === message));

function record({ id: message_id, attributes: { RejectReason, RejectErrors }, body, sentAtMs }: Message) {
  const errors: { path: string; message: string }[] = JSON.parse(RejectErrors?.StringValue ?? "[]");
  const sent_at = new Date(sentAtMs).toISOString();
  return { message_id, reason: RejectReason?.StringValue ?? "none", errors, body, sent_at };
}

const asJson = (message: Message) => JSON.stringify(record(message));

/** Without control characters: a stranger's body must not steer the terminal. */
function asText(message: Message): string {
  const { message_id, reason, errors, body, sent_at } = record(message);
  const start = body.length > 160 ? `${body.slice(0, 160)}…` : body;
  const lines = [...errors.map(({ path, message }) => `${path || "/"}: ${message}`), start];
  const printable = lines.map((line) => `\n  ${line.replace(/\p{C}/gu, "\ufffd")}`);
  return `${sent_at}  ${message_id}  ${reason}${printable.join("")}`;
}

if (import.meta.main) process.exit(await redrive(process.argv.slice(2), Bun.env));
