/** `bun run bench`: measures the program and its competitors. */

import { drain, memory } from "./bench/drain.ts";
import { http } from "./bench/http.ts";
import { latency } from "./bench/latency.ts";
import { OPTIONS, type Options, type Spread, type Table } from "./bench/rounds.ts";
import { stores } from "./bench/stores.ts";
import { type CommandResult, type Context, createCommand, UsageError, type Values } from "./cli.ts";

const SUITES: Record<string, (options: Options) => Promise<Table[]>> = { drain, latency, http, stores, memory };
/** Other defaults of the options with --quick, and the suites that it measures. */
const QUICK = { rounds: 2, orders: [30_000], users: [1_000], rates: [5_000], "board-users": 100_000, seconds: 2 };
const QUICK_SUITES = ["drain", "latency", "http", "stores"];

const bench = createCommand({
  description:
    "Measures the program and its competitors on this machine, in turn: the median of several rounds (least–most).",
  usage: "bun run bench [suite ...] [options]",
  positionals: {
    drain: "empties a full queue: the program, bare loops of the AWS SDK and of fetch, npm's sqs-consumer",
    latency: "from sending an order until the API shows it, at 1,000 and 5,000 orders/s",
    http: "the API and a bare Bun.serve with ioredis, a million users on the leaderboards",
    stores: "record() alone, Redis and SQLite",
    memory: "the program with 4 workers after a million orders",
  },
  options: OPTIONS,
  notes: `Needs Linux, redis-server and, for http, wrk. The queue, Redis and every competitor are processes of their own; the
CPU time is the competitor's. Cold: all of it since the start of the process until 20,000 orders have left the queue. The
published numbers are those of all examples but --quick.`,
  examples: [
    "bun run bench --quick",
    "bun run bench drain --users 1000,100000 --rounds 4",
    "bun run bench drain --orders 500000 --users 1000,100000 --rounds 1",
    "bun run bench latency http stores memory",
  ],
  run,
});

async function run(options: Values<typeof OPTIONS>, context: Context): Promise<CommandResult> {
  const { positionals, progress, print } = context;
  const unknown = positionals.filter((name) => !Object.hasOwn(SUITES, name));
  if (unknown.length > 0) throw new UsageError(unknown.map((name) => `Unexpected argument '${name}': see --help`));
  const tables: Table[] = [];
  const given = Object.entries(options).filter(([, value]) => value !== undefined);
  const chosen = { ...options, ...(options.quick && QUICK), ...Object.fromEntries(given), progress };
  const all = options.quick ? QUICK_SUITES : Object.keys(SUITES);
  for (const name of positionals.length > 0 ? positionals : all) {
    const measured = (await SUITES[name]?.(chosen)) ?? [];
    if (!options.json) for (const table of measured) await print(...format(table).split("\n"));
    tables.push(...measured);
  }
  return { json: { tables } };
}

/** A table with more columns would be wider than a terminal: it is printed in parts. */
const COLUMNS = 4;

function format({ title, rows }: Table): string {
  // ordersPerSecond -> orders per second
  const label = (name: string) => name.replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`);
  const cells = (row: Record<string, Spread>) =>
    Object.fromEntries(Object.entries(row).map(([name, spread]) => [label(name), formatSpread(spread)]));
  const table = Object.fromEntries(Object.entries(rows).map(([name, row]) => [name, cells(row)]));
  const names = [...new Set(Object.values(table).flatMap(Object.keys))];
  const parts = Array.from({ length: Math.ceil(names.length / COLUMNS) }, (_, part) =>
    Bun.inspect.table(table, names.slice(part * COLUMNS, (part + 1) * COLUMNS)).trimEnd(),
  );
  return [`\n${title}, median (least–most)`, ...parts].join("\n");
}

const digits = new Intl.NumberFormat("en-US", { maximumSignificantDigits: 3 });

const formatSpread = ({ median, min, max }: Spread) =>
  digits.format(median) + (min < max ? ` (${digits.format(min)}–${digits.format(max)})` : "");

process.exit(await bench(process.argv.slice(2), Bun.env));
