/** `bun run bench`: what the program does and costs, beside what else could do it. */

import { dashboard } from "./bench/dashboard.ts";
import { drain } from "./bench/drain.ts";
import { fleet } from "./bench/fleet.ts";
import { http } from "./bench/http.ts";
import { latency } from "./bench/latency.ts";
import { memory } from "./bench/memory.ts";
import type { Spread, Table } from "./bench/rounds.ts";
import { endurance, scale } from "./bench/scale.ts";
import { replicas, stores } from "./bench/stores.ts";
import { type Context, createCommand, type Result, type Values } from "./command.ts";

const INTEGER = { takes: "integer" } as const;
/** Where no number is given and none falls back, each suite has its own. */
const OPTIONS = {
  rounds: { ...INTEGER, fallback: 3, about: "of every side" },
  orders: {
    ...INTEGER,
    many: true,
    about: "50000, dashboard 200000, memory 1000000; drain takes every number, others the largest",
  },
  users: {
    ...INTEGER,
    many: true,
    about: "1000, stores also 100000; latency and memory take the first",
  },
  days: { ...INTEGER, fallback: 2, about: "of the orders: a backlog is seldom longer" },
  "board-users": { ...INTEGER, fallback: 1_000_000, about: "of http" },
  seconds: { ...INTEGER, about: "of load at a time: latency 10, http 5" },
  workers: { ...INTEGER, about: "the program's own default; fleet 1, memory 4" },
  concurrency: { ...INTEGER, about: "the program's own default" },
} as const;
const SUITES: Record<string, (options: Options) => Promise<Table[]>> = {
  drain,
  fleet,
  latency,
  http,
  dashboard,
  memory,
  stores,
  replicas,
  scale,
};
/** Only by name: it takes a quarter of an hour. */
const LONG: typeof SUITES = { endurance };

export type Options = Values<typeof OPTIONS> & Pick<Context, "progress">;

const bench = createCommand({
  about: "Measures the program beside others on this machine, in turn: the median of several rounds (least–most).",
  usage: "bun run bench [suite ...] [options]",
  words: {
    drain: "empties a full queue: the program, bare loops of the AWS SDK and of fetch, npm's sqs-consumer",
    fleet: "one, two, four and eight processes on one queue: rate, cost, and their shares of it",
    latency: "from sending an order until the API shows it, at 100 and 1,000 orders/s",
    http: "the API beside a bare Bun.serve with ioredis, a million users on the boards",
    dashboard: "a drain with a hundred of them open, and from sending an order until a browser shows it",
    memory: "of the process over a million orders, of Redis for an order and for a user; the start",
    stores: "record() alone, Redis and SQLite",
    replicas: "the same in a cluster, with and without waiting for a replica",
    scale: "every part on a core of its own, one Redis and three masters, and what that comes to for many processes",
    endurance: "only by name: ten million orders of a million users in one run, a quarter of an hour",
  },
  several: true,
  options: OPTIONS,
  notes: `Needs Linux, redis-server, for http wrk and for dashboard chromium. Queue, Redis and every side are processes of their own; the CPU counted is
the side's. The published numbers are those of the examples.`,
  exitCodes: { 0: "measured" },
  examples: [
    "bun run bench drain --orders 50000,500000 --users 1000,100000",
    "bun run bench fleet latency http dashboard memory stores",
  ],
  run,
});

async function run(options: Values<typeof OPTIONS>, { words, progress, print }: Context): Promise<Result> {
  const tables: Table[] = [];
  for (const name of words.length > 0 ? words : Object.keys(SUITES)) {
    const measured = (await { ...SUITES, ...LONG }[name]?.({ ...options, progress })) ?? [];
    if (!options.json) for (const table of measured) await print(asText(table));
    tables.push(...measured);
  }
  return { json: { tables } };
}

function asText({ title, rows }: Table): string {
  // ordersPerSecond -> orders per second
  const inWords = (name: string) => name.replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`);
  const cellsOf = (row: Table["rows"][string]) =>
    Object.entries(row).map(([name, spread]) => [inWords(name), cell(spread)]);
  const cells = Object.entries(rows).map(([name, row]) => [name, Object.fromEntries(cellsOf(row))]);
  return `\n${title}, median (least–most)\n${Bun.inspect.table(Object.fromEntries(cells)).trimEnd()}`;
}

const digits = new Intl.NumberFormat("en-US", { maximumSignificantDigits: 3 });

const cell = ({ median, min, max }: Spread) => `${digits.format(median)} (${digits.format(min)}–${digits.format(max)})`;

process.exit(await bench(process.argv.slice(2), Bun.env));
