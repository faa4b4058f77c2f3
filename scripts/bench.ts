/** `bun run bench`: measures the program and its competitors. */

import { drain } from "./bench/drain.ts";
import { http } from "./bench/http.ts";
import { latency } from "./bench/latency.ts";
import { OPTIONS, type Options, type Spread, type Table } from "./bench/rounds.ts";
import { stores } from "./bench/stores.ts";
import { type CommandResult, type Context, createCommand, UsageError, type Values } from "./cli.ts";

const SUITES: Record<string, (options: Options) => Promise<Table[]>> = { drain, latency, http, stores };

const bench = createCommand({
  description:
    "Measures the program and its competitors on this machine, in turn: the median of several rounds (least–most).",
  usage: "bun run bench [suite ...] [options]",
  positionals: {
    drain: "empties a full queue: the program, bare loops of the AWS SDK and of fetch, npm's sqs-consumer",
    latency: "from sending an order until the API shows it, at 100 and 1,000 orders/s",
    http: "the API and a bare Bun.serve with ioredis, a million users on the leaderboards",
    stores: "record() alone, Redis and SQLite",
  },
  options: OPTIONS,
  notes: `Needs Linux, redis-server and, for http, wrk. The queue, Redis and every competitor are processes of their own; the
CPU time is the competitor's. The published numbers are those of the examples.`,
  examples: ["bun run bench drain --orders 50000,500000 --users 1000,100000", "bun run bench latency http stores"],
  run,
});

async function run(options: Values<typeof OPTIONS>, context: Context): Promise<CommandResult> {
  const { positionals, progress, print } = context;
  const unknown = positionals.filter((name) => !Object.hasOwn(SUITES, name));
  if (unknown.length > 0) throw new UsageError(unknown.map((name) => `Unexpected argument '${name}': see --help`));
  const tables: Table[] = [];
  for (const name of positionals.length > 0 ? positionals : Object.keys(SUITES)) {
    const measured = (await SUITES[name]?.({ ...options, progress })) ?? [];
    if (!options.json) for (const table of measured) await print(...format(table).split("\n"));
    tables.push(...measured);
  }
  return { json: { tables } };
}

function format({ title, rows }: Table): string {
  // ordersPerSecond -> orders per second
  const label = (name: string) => name.replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`);
  const cells = (row: Record<string, Spread>) =>
    Object.fromEntries(Object.entries(row).map(([name, spread]) => [label(name), formatSpread(spread)]));
  const table = Object.fromEntries(Object.entries(rows).map(([name, row]) => [name, cells(row)]));
  return `\n${title}, median (least–most)\n${Bun.inspect.table(table).trimEnd()}`;
}

const digits = new Intl.NumberFormat("en-US", { maximumSignificantDigits: 3 });

const formatSpread = ({ median, min, max }: Spread) =>
  `${digits.format(median)} (${digits.format(min)}–${digits.format(max)})`;

process.exit(await bench(process.argv.slice(2), Bun.env));
