/** `bun scripts/import.ts`: sends the orders of files to the queue. */

import { fstatSync, statSync } from "node:fs";
import { ConfigError, readConfig } from "../config.ts";
import { type ValidationResult, validateOrder } from "../consumer/order.ts";
import { createOffsetAt } from "../consumer/time-zone.ts";
import { messageOf } from "../errors.ts";
import type { Queue } from "../queue/queue.ts";
import { describeQueueError } from "../queue/request.ts";
import { MAX_MESSAGE_BYTES } from "../queue/send.ts";
import { todayIn } from "../store/periods.ts";
import { digestOf, LONGEST_WINDOW_SECONDS } from "../store/store.ts";
import { formatNumber, pluralize } from "../text.ts";
import { type CommandResult, type Context, createCommand, UsageError, type Values } from "./cli.ts";
import type { GeneratedMessage } from "./generator.ts";
import { CSV_FIELDS, readCsv } from "./import-csv.ts";
import { type FileOrder, openRejects, type Problem, readJsonLines, readText, tooLarge } from "./import-files.ts";
import { formatCents, formatRate } from "./progress.ts";
import {
  addMessages,
  createPace,
  describeGrowth,
  openConfiguredQueue,
  sendRound,
  type Totals,
  totalsOf,
} from "./sender.ts";

const OPTIONS = {
  format: { type: ["jsonl", "csv"], help: "of all files; by default by name: .jsonl, .ndjson, .csv, also with .gz" },
  map: { type: "pair", multiple: true, help: "CSV: the columns of fields that have another name there" },
  rate: {
    type: "decimal",
    min: 0,
    max: 1_000_000,
    default: 0,
    help: "orders per second; 0 is as fast as the queue accepts",
  },
  limit: { type: "integer", help: "maximum number of orders to send" },
  rejects: { type: "text", help: "new file for what is not a valid order: file, line, reason, errors, body" },
  "dry-run": { help: "send nothing, and print what the totals would grow by" },
} as const;

export const importOrders = createCommand({
  description:
    "Sends the orders of files to the queue that `bun run start` reads. What is not a valid order is reported instead.",
  usage: "bun scripts/import.ts FILE… [options]",
  positionals: { "FILE…": "JSON lines or CSV, also compressed with gzip; - is standard input" },
  options: OPTIONS,
  notes: `JSON lines: each line is an order, or a line of \`redrive file\` or of --rejects, with the order in "body". CSV: a header row
with the names of the fields. A row is an item (product_id, quantity, price_per_unit), with the rows of an order next to
each other, or an order with its items as JSON in the column "items". Other columns are ignored.
It is safe to run again: an order that was counted is a duplicate for as long as the program remembers its id
(docs/glossary.md, "marker window"). After that it is counted again. --dry-run finds the copies within the files, not
what was counted before; it keeps every order id in memory, about 200 MB for a million orders. The queue is found by the
environment variables of the program, and ON_VALUE_MISMATCH, ON_IMPLAUSIBLE_DATE and TIME_ZONE apply. The exit code is 1 also if
an order was rejected.`,
  examples: [
    "bun scripts/import.ts 2023.jsonl.gz 2024.jsonl.gz --dry-run",
    "bun scripts/import.ts shop.csv --map order_id=OrderNumber,user_id=Customer --rejects rejects.jsonl",
    "zcat orders/*.gz | bun scripts/import.ts - --format jsonl --rate 500",
  ],
  finishesOnInterrupt: true,
  run,
});

/** Orders are sent together when so much is read, so that memory stays flat with large ones. */
const MAX_ROUND_BYTES = 2 * 1024 * 1024;
const DAY_SECONDS = 24 * 3600;

interface File {
  path: string;
  format: "jsonl" | "csv";
  /** Infinity if unknown. */
  bytes: number;
  /** Of the orders that were sent, and the number of rejects. */
  totals: Totals;
  /** Every order that begins up to this line was sent or rejected. */
  line: number;
  problem?: string;
}

async function run(options: Values<typeof OPTIONS>, context: Context): Promise<CommandResult> {
  const { env, signal, positionals: paths, printToStderr, progress } = context;
  const files = findFiles(paths, options.format);
  const columnOf = readColumns(options.map);
  const { queue: config, consumer, timeZone } = readConfig(env);
  const rejects = openRejects(options.rejects);
  const queue = options["dry-run"] ? undefined : await openConfiguredQueue(config);
  await printToStderr(`${queue ? `Sending to ${queue.address.url}` : "Reading"}: ${paths.join(", ")}`);
  const bytes = files.reduce((sum, file) => sum + file.bytes, 0);
  const onProgress = progress(Math.ceil(bytes / 1024), "KiB", "KiB");
  const { limit = Number.POSITIVE_INFINITY } = options;
  const rate = queue ? options.rate : 0;
  const startedMs = performance.now();
  const offsetAt = createOffsetAt(timeZone);
  function validateBody(body: string) {
    const dates = { nowMs: Date.now(), onImplausibleDate: consumer.onImplausibleDate };
    return validateOrder(body, consumer.onValueMismatch, { offsetAt, dates });
  }
  const job = createJob({ validateBody, queue, columnOf, rejects, onProgress, signal, limit, rate });
  for (const file of files) if (!job.isStopped()) await job.importFile(file);
  queue?.close();
  const seconds = (performance.now() - startedMs) / 1000;
  return report(files, { ...job.done, queue, rejects, signal, seconds, today: todayIn(timeZone) });
}

/** @throws an Error with the problem of each file, before anything is sent */
function findFiles(paths: string[], format: File["format"] | undefined): File[] {
  if (paths.length === 0) throw new UsageError(["Give the FILE to import, or - for standard input: see --help"]);
  const problems: string[] = [];
  const files = paths.map((path): File => {
    const [, extension] = /\.(jsonl|ndjson|csv)(?:\.gz)?$/i.exec(path) ?? [];
    const { bytes, problem } = sizeOf(path);
    const unknown = `${path} has no known extension: add --format jsonl or --format csv`;
    problems.push(...(problem ?? (format || extension ? [] : [unknown])));
    const named = /^csv$/i.test(extension ?? "") ? "csv" : "jsonl";
    return { path, format: format ?? named, bytes, totals: totalsOf([]), line: 0 };
  });
  if (problems.length > 0) throw new ConfigError(problems);
  return files;
}

function sizeOf(path: string): { bytes: number; problem?: [string] } {
  try {
    const stats = path === "-" ? fstatSync(0) : statSync(path);
    if (stats.isDirectory()) return { bytes: 0, problem: [`${path} is a directory: name the files in it`] };
    return { bytes: stats.isFile() ? stats.size : Number.POSITIVE_INFINITY };
  } catch (error) {
    return { bytes: 0, problem: [`Cannot read ${path}: ${messageOf(error)}`] };
  }
}

function readColumns(pairs: string[] = []) {
  const columnOf = new Map(pairs.map((pair) => pair.split(/=(.*)/s, 2) as [string, string]));
  const unknown = [...columnOf.keys()].find((field) => !CSV_FIELDS.includes(field));
  if (unknown) throw new UsageError([`--map: there is no field ${unknown}, only ${CSV_FIELDS.join(", ")}`]);
  return columnOf;
}

interface JobOptions {
  /** Undefined in a dry run. */
  queue: Queue | undefined;
  /** As the consumer does. */
  validateBody(body: string): ValidationResult;
  columnOf: ReadonlyMap<string, string>;
  rejects: ReturnType<typeof openRejects>;
  rate: number;
  limit: number;
  signal: AbortSignal;
  onProgress(kibibytes: number): void;
}

interface Done {
  sent: number;
  oldestDay?: string;
  failure?: { error: Error; uncertain: number };
  stoppedIn?: File;
}

function createJob({ queue, columnOf, rejects, limit, signal, onProgress, ...options }: JobOptions) {
  const pace = createPace(options.rate, signal);
  const done: Done = { sent: 0 };
  /** Digests of the order ids of a dry run. */
  const seen = new Set<string>();
  let bytesRead = 0;

  const isStopped = () => signal.aborted || done.failure !== undefined || done.sent >= limit;

  /** Sends the orders of a file in rounds. While a round is sent, nothing is read. */
  async function importFile(file: File) {
    let round: GeneratedMessage[] = [];
    let [line, bytes] = [0, 0];
    async function flush() {
      if (round.length > 0 && !(await send(round, file.totals))) return;
      [round, bytes, file.line] = [[], 0, line];
      onProgress(Math.ceil(bytesRead / 1024));
    }
    try {
      const chunks = readText(file.path, signal, (size) => {
        bytesRead += size;
      });
      for await (const order of file.format === "csv" ? readCsv(chunks, columnOf) : readJsonLines(chunks)) {
        const message = toMessage(order, file);
        line = order.line;
        bytes += order.body.length;
        if (message) round.push(message);
        if (round.length >= Math.min(pace.roundSize, limit - done.sent) || bytes > MAX_ROUND_BYTES) await flush();
        if (isStopped()) break;
      }
    } catch (error) {
      const rest = line > 0 ? `No order that begins after line ${line} was imported` : "No order was imported";
      if (!signal.aborted) file.problem = `${file.path}: ${messageOf(error)}. ${rest}`;
    }
    // Also what precedes an error of the file.
    if (!isStopped()) await flush();
    if (isStopped()) done.stoppedIn = file;
  }

  /** @returns undefined for a reject */
  function toMessage(order: FileOrder, file: File): GeneratedMessage | undefined {
    const { body, result } = validate(order, options.validateBody, queue?.address.maxBytes);
    if (result.outcome === "rejected") {
      file.totals.rejected++;
      rejects.add({ file: file.path, line: order.line, reason: result.reason, errors: result.errors, body });
      return undefined;
    }
    const { id: orderId, userId, day, cents } = result.order;
    // SQS does not accept these two characters. In JSON they are part of a text, where they can be escaped.
    const sendable = body.replace(/[\ufffe\uffff]/g, (character) => `\\u${character.charCodeAt(0).toString(16)}`);
    return { body: sendable, expected: result.outcome, orderId, userId, day, cents };
  }

  /** @returns whether all messages were sent */
  async function send(round: GeneratedMessage[], totals: Totals): Promise<boolean> {
    await pace.wait(done.sent);
    if (signal.aborted) return false;
    const result = queue && (await sendRound(queue, round));
    const confirmed = result?.confirmed ?? round.map(countCopy);
    addMessages(totals, confirmed);
    done.sent += confirmed.length;
    for (const { day } of confirmed) if (!done.oldestDay || day < done.oldestDay) done.oldestDay = day;
    if (result?.error) done.failure = { error: result.error, uncertain: result.uncertain.length };
    return !done.failure;
  }

  /** @returns a message of a dry run, as a duplicate if its order was read before */
  function countCopy(message: GeneratedMessage): GeneratedMessage {
    const digest = Buffer.from(digestOf(message.orderId)).toString("latin1");
    return seen.size === seen.add(digest).size ? { ...message, expected: "duplicate" } : message;
  }

  return { done, isStopped, importFile };
}

/** @returns the body to send, which may be that of a dead letter, and what the consumer will do with it */
function validate(
  { body: text, problem }: FileOrder,
  validateBody: JobOptions["validateBody"],
  maxBytes = MAX_MESSAGE_BYTES,
) {
  const reject = (body: string, problem: Problem) => ({ body, result: { outcome: "rejected" as const, ...problem } });
  if (problem) return reject(text, problem);
  const result = validateBody(text);
  const inner = result.outcome === "rejected" ? bodyOfDeadLetter(text) : undefined;
  const body = inner ?? text;
  const bytes = Buffer.byteLength(body);
  if (bytes > maxBytes) return reject(body, tooLarge(bytes, maxBytes));
  return { body, result: inner === undefined ? result : validateBody(inner) };
}

/** @returns the body in a line of `redrive file` or --rejects, as text or as JSON; undefined for any other line */
function bodyOfDeadLetter(line: string): string | undefined {
  try {
    const { order_id, reason, errors, body } = Object(JSON.parse(line));
    if (order_id !== undefined || typeof reason !== "string" || !Array.isArray(errors)) return undefined;
    return typeof body === "string" ? body : JSON.stringify(body);
  } catch {
    return undefined;
  }
}

type Outcome = Done & Pick<JobOptions, "queue" | "rejects" | "signal"> & { seconds: number; today: string };

function report(files: File[], outcome: Outcome): CommandResult {
  const { queue, rejects, signal, seconds, today, sent, oldestDay, failure, stoppedIn } = outcome;
  const all = totalsOf([]);
  for (const { totals } of files) for (const key of Object.keys(all) as (keyof Totals)[]) all[key] += totals[key];
  const lines = [
    `${queue ? "Sent" : "Read"} ${pluralize(sent, "order")} in ${seconds.toFixed(1)} s (${formatRate(sent, seconds * 1000)} orders/s)`,
    `The totals ${queue ? "grow" : "would grow"} by at most:`,
    // Copies are counted in a dry run only.
    ...describeGrowth(all).table.slice(0, queue ? 3 : 4),
    ...(files.length > 1 ? files.map(summaryOf) : []),
  ];
  if (oldestDay) lines.push(describeAge(oldestDay, today, queue));
  if (stoppedIn) {
    const again = "run the same command again, and what was sent before is a duplicate";
    lines.push(`Stopped after line ${stoppedIn.line} of ${stoppedIn.path}: ${again}`);
  }
  const problems = files.flatMap(({ problem }) => problem ?? []);
  if (failure) {
    const more = `Up to ${pluralize(failure.uncertain, "more order")} may be in the queue`;
    problems.push(`Cannot send: ${describeQueueError(failure.error)}. ${more}`);
  }
  problems.push(...rejects.summary(all.rejected));
  const growthOf = (totals: Totals) => ({ ...describeGrowth(totals).json, ...(queue && { duplicates: undefined }) });
  const json = {
    sent: queue ? sent : 0,
    seconds: Number(seconds.toFixed(3)),
    ...growthOf(all),
    oldest: oldestDay,
    uncertain: failure?.uncertain,
    stopped: stoppedIn && { file: stoppedIn.path, line: stoppedIn.line },
    files: files.map(({ path, totals }) => ({ file: path, ...growthOf(totals) })),
  };
  return { lines, json, problems, ...(signal.aborted && { exitCode: 130 }) };
}

function summaryOf({ path, totals: { counted, corrected, cents, rejected, duplicate } }: File): string {
  const orders = `${pluralize(counted + corrected, "order")}, ${formatCents(cents)}`;
  return `  ${path}: ${orders}; ${formatNumber(rejected)} rejected, ${pluralize(duplicate, "duplicate")}`;
}

/** @returns the age of the oldest order, and of a queue for how long a copy is not counted */
function describeAge(day: string, today: string, queue: Queue | undefined): string {
  const days = Math.max(0, (Date.parse(today) - Date.parse(day)) / DAY_SECONDS / 1000);
  const age = `The oldest order is of ${day}, ${pluralize(days, "day")} ago.`;
  if (!queue) return age;
  const window = Math.floor((queue.address.copyLifetimeSeconds ?? LONGEST_WINDOW_SECONDS) / DAY_SECONDS);
  return `${age} Sent again within ${pluralize(window, "day")}, the orders are duplicates; later they count twice`;
}

if (import.meta.main) process.exit(await importOrders(process.argv.slice(2), Bun.env));
