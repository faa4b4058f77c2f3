/** `bun scripts/populate.ts`: sends generated orders to the queue and says what the totals grow by. */

import { parseArgs } from "node:util";
import { SingleBar } from "cli-progress";
import { ConfigError, type QueueConfig, readConfig } from "../config.ts";
import type { QueueAddress } from "../queue/client.ts";
import { openQueue, reasonOf } from "../queue/queue.ts";
import { locateQueue } from "../queue/setup.ts";
import { generate } from "./generator.ts";
import { addMessage, createTotals, type Sent, sendMessages } from "./sender.ts";

const NUMBERS = {
  orders: { fallback: "100", min: 1, max: 100_000_000, about: "messages to send, of every kind" },
  users: { fallback: "1000", min: 1, max: 10_000_000, about: "to draw from; a tenth of them buys half" },
  rate: { fallback: "0", min: 0, max: 1_000_000, about: "a second; 0 is as fast as the queue takes them" },
  mismatch: { fallback: "0", min: 0, max: 100, about: "% whose order_value is not the total of the items" },
  invalid: { fallback: "0", min: 0, max: 100, about: "% that are not valid orders" },
  duplicates: { fallback: "0", min: 0, max: 100, about: "% that are copies of an order sent earlier" },
  days: { fallback: "1", min: 1, max: 3_650, about: "UTC days to spread the orders over, today the last" },
  seed: {
    fallback: "",
    min: 0,
    max: 2 ** 32 - 1,
    about: "for the same orders again; random where not given",
  },
};
const FLAGS = { json: { type: "boolean" }, help: { type: "boolean", short: "h" } } as const;
const DECIMALS = ["rate", "mismatch", "invalid", "duplicates"];

type NumberName = keyof typeof NUMBERS;
type Options = Record<NumberName, number>;
type Environment = Record<string, string | undefined>;

const HELP = `Sends generated orders to the queue that \`bun run start\` reads and says what the totals grow by.

Usage: bun scripts/populate.ts [options]

${Object.entries(NUMBERS).map(helpLine).join("\n")}
  --json                one JSON object on stdout and nothing else there
  --help                this text

The same seed, options and UTC day send the same order ids again: those count as duplicates. Percentages are of
all messages, drawn for each of them. The queue is found by the environment variables that the program reads.

Examples:
  bun scripts/populate.ts --orders 5000 --days 30
  bun scripts/populate.ts --orders 100000 --mismatch 5 --invalid 2 --duplicates 10
  bun scripts/populate.ts --orders 600 --rate 10 --seed 42 --json`;

function helpLine([name, { fallback, about }]: [string, (typeof NUMBERS)[NumberName]]): string {
  return `  --${name}`.padEnd(16) + fallback.padStart(5) + " ".repeat(3) + about;
}

/** Runs the command and answers its exit code: 0 sent, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C. */
export async function populate(args: string[], env: Environment): Promise<number> {
  const { options, json, help, problems } = readOptions(args);
  if (help) console.log(HELP);
  else if (problems.length > 0) console.error(problems.join("\n"));
  if (help || problems.length > 0) return help ? 0 : 2;
  try {
    return await run(options, json, env);
  } catch (error) {
    console.error(error instanceof ConfigError ? error.problems.join("\n") : reasonOf(error));
    return 1;
  }
}

/** Not by parseArgs' own strictness: it ends at the first problem, and all of them are named here. */
function readOptions(args: string[]) {
  const texts = Object.fromEntries(Object.keys(NUMBERS).map((name) => [name, { type: "string" as const }]));
  const { values, positionals } = parseArgs({ args, options: { ...texts, ...FLAGS }, strict: false });
  const problems = positionals.map((word) => `Unexpected argument ${word}`);
  for (const [name, value] of Object.entries(values)) {
    const dashes = name.length === 1 ? "-" : "--";
    if (!Object.hasOwn({ ...NUMBERS, ...FLAGS }, name)) problems.push(`Unknown option ${dashes}${name}: see --help`);
    else if (name in FLAGS && value !== true) problems.push(`--${name} takes no value`);
  }
  const options = {} as Options;
  for (const name of Object.keys(NUMBERS) as NumberName[]) {
    const fallback = name === "seed" ? `${randomSeed()}` : NUMBERS[name].fallback;
    options[name] = readNumber(name, values[name] ?? fallback, problems);
  }
  // Decimals may add up to a hair more than they should.
  const percent = Number((options.mismatch + options.invalid + options.duplicates).toFixed(6));
  if (percent > 100) problems.push(`--mismatch, --invalid and --duplicates add up to ${percent}: at most 100`);
  return { options, json: values.json === true, help: values.help === true, problems };
}

const randomSeed = () => crypto.getRandomValues(new Uint32Array(1))[0];

function readNumber(name: NumberName, value: unknown, problems: string[]): number {
  const { min, max } = NUMBERS[name];
  const text = value === true ? "" : String(value);
  const [form, kind] = DECIMALS.includes(name) ? [/^\d+(\.\d+)?$/, "a number"] : [/^\d+$/, "an integer"];
  if (form.test(text) && Number(text) >= min && Number(text) <= max) return Number(text);
  problems.push(`--${name} must be ${kind} from ${min} to ${max}: got "${text}"`);
  return 0;
}

async function run(options: Options, json: boolean, env: Environment): Promise<number> {
  if (env.NODE_ENV === "production") throw new Error("NODE_ENV=production: made-up orders would count as real ones");
  const { queue: wanted, consumer } = readConfig(env);
  const queue = openQueue(await locate(wanted));
  const interrupt = new AbortController();
  // Once: a second Ctrl-C meets no listener and ends the process.
  process.once("SIGINT", () => interrupt.abort());
  const write = json ? console.error : console.log;
  write(`Sending ${grouped(options.orders)} messages to ${queue.address.url}, seed ${options.seed}`);
  const progress = createProgress(options.orders, write);
  const messages = generate({ ...options, nowMs: Date.now(), onValueMismatch: consumer.onValueMismatch });
  const sent = await sendMessages(queue, messages, options, interrupt.signal, progress.update).finally(progress.stop);
  queue.close();
  if (json) console.log(JSON.stringify(summary(sent, options.seed)));
  else console.log(inWords(sent, options));
  if (sent.error) console.error(failure(sent));
  return sent.error ? 1 : interrupt.signal.aborted ? 130 : 0;
}

async function locate(queue: QueueConfig): Promise<QueueAddress> {
  if (queue.kind === "sqs") return await locateQueue({ ...queue, embedded: false });
  const endpoint = `http://127.0.0.1:${queue.port}`;
  try {
    return await locateQueue({ name: queue.name, endpoint, embedded: true });
  } catch (error) {
    const reason = reasonOf((error as Error).cause);
    const text = `Cannot use the queue ${queue.name} at ${endpoint}: ${reason}. Is \`bun run start\` running?`;
    throw new Error(text, { cause: error });
  }
}

/** The longest silence on a slow run. */
const PROGRESS_PAUSE_MS = 5_000;

/** A bar where stderr is a terminal; elsewhere a line every tenth of the way, or every five seconds. */
function createProgress(total: number, write: (line: string) => void) {
  if (process.stderr.isTTY) return createBar(total);
  const startedMs = performance.now();
  let shown = { messages: 0, atMs: startedMs };

  function update(messages: number) {
    const atMs = performance.now();
    if (messages - shown.messages < total / 10 && atMs - shown.atMs < PROGRESS_PAUSE_MS) return;
    shown = { messages, atMs };
    const done = `${grouped(messages)} of ${grouped(total)} (${Math.floor((messages / total) * 100)} %)`;
    write(`${done}, ${perSecond(messages, atMs - startedMs)} orders/s`);
  }

  return { update, stop: () => {} };
}

function createBar(total: number) {
  const format = "{bar} {percentage}% | {value}/{total} | {rate} orders/s | ETA {eta_formatted}";
  // Without linewrap the bar would leave the terminal changed after a second Ctrl-C.
  const bar = new SingleBar({ format, barsize: 25, linewrap: true, etaBuffer: 100 });
  const startedMs = performance.now();
  bar.start(total, 0, { rate: 0 });
  const update = (messages: number) =>
    bar.update(messages, { rate: perSecond(messages, performance.now() - startedMs) });
  return { update, stop: () => bar.stop() };
}

/** `orders` are those that count, corrected ones included. */
function summary({ totals, seconds, uncertain }: Sent, seed: number) {
  const { messages, cents, counted, corrected, rejected, duplicate: duplicates } = totals;
  const orders = counted + corrected;
  const known = { seed, messages, seconds: Number(seconds.toFixed(3)), orders, revenue: cents / 100 };
  const uncertainty = uncertain.length > 0 && { uncertain: uncertain.length };
  return { ...known, counted, corrected, rejected, duplicates, ...uncertainty };
}

function inWords({ totals, seconds }: Sent, { orders: wanted, seed }: Options): string {
  const { messages, counted, corrected, rejected, duplicate } = totals;
  const sent = messages < wanted ? `${grouped(messages)} of ${grouped(wanted)}` : grouped(messages);
  return `Sent ${sent} messages in ${seconds.toFixed(1)} s (${perSecond(messages, seconds * 1000)} orders/s), seed ${seed}.
The totals grow by:
  orders      ${grouped(counted + corrected)} (${grouped(counted)} counted, ${grouped(corrected)} corrected)
  revenue     ${money(totals.cents)}
  rejected    ${grouped(rejected)}
  duplicates  ${grouped(duplicate)}`;
}

function failure({ error, uncertain }: Sent): string {
  const most = createTotals();
  for (const message of uncertain) addMessage(most, message);
  const more = `by up to ${most.counted + most.corrected} orders and ${money(most.cents)} more`;
  return `Cannot send: ${reasonOf(error)}. ${uncertain.length} further messages may be in the queue: the totals may grow ${more}`;
}

const TWO_DECIMALS = { minimumFractionDigits: 2, maximumFractionDigits: 2 };
const grouped = (number: number) => number.toLocaleString("en-US");
const money = (cents: number) => (cents / 100).toLocaleString("en-US", TWO_DECIMALS);
const perSecond = (count: number, ms: number) => grouped(Math.round(count / Math.max(ms / 1000, 0.001)));

if (import.meta.main) process.exitCode = await populate(process.argv.slice(2), Bun.env);
