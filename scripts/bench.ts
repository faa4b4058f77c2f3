/** `bun run bench`: what the program does and costs, beside what else could do it. */

import { parseArgs } from "node:util";
import { drain } from "./bench/drain.ts";
import { http } from "./bench/http.ts";
import { latency } from "./bench/latency.ts";
import { memory } from "./bench/memory.ts";
import type { Spread, Table } from "./bench/rounds.ts";
import { stores } from "./bench/stores.ts";

export interface Options {
  rounds: number;
  days: number;
  boardUsers: number;
  /** Where absent, each suite has its own. */
  orders?: number[] | undefined;
  users?: number[] | undefined;
  seconds?: number | undefined;
  workers?: number | undefined;
  concurrency?: number | undefined;
}

const SUITES: Record<string, (options: Options) => Promise<Table[]>> = { drain, latency, http, memory, stores };

const HELP = `Measures the program beside others on this machine, in turn: the median of several rounds (least–most).

Usage: bun run bench [suite ...] [options]

  drain     empties a full queue: the program, bare loops of the AWS SDK and of fetch, npm's sqs-consumer
  latency   from sending an order until the API shows it, at 100 and 1,000 orders/s
  http      the API beside a bare Bun.serve with ioredis, a million users on the boards
  memory    of the process over a million orders, of Redis for an order and for a user; the start
  stores    record() alone, Redis and SQLite

  --rounds N          3
  --orders N,N...     50000, memory 1000000; drain takes every number, others the largest
  --users N,N...      1000, stores also 100000; drain and stores take every number, others the first
  --days N            2: a backlog is seldom longer
  --board-users N     1000000, http
  --seconds N         of load at a time: latency 10, http 5
  --workers N         the program's own default; memory 4
  --concurrency N     the program's own default
  --json              one JSON object on stdout and nothing else there

Needs Linux, redis-server and, for http, wrk. Queue, Redis and every side are processes of their own; the CPU counted is
the side's. Exit code: 0 measured, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C. The published numbers are those of

  bun run bench drain --orders 50000,500000 --users 1000,100000
  bun run bench latency http memory stores`;

class UsageError extends Error {}

/** Runs the command and answers its exit code, as its help has them. */
async function bench(args: string[]): Promise<number> {
  try {
    const { values, positionals } = parse(args);
    if (values.help) console.log(HELP);
    else await run(suitesOf(positionals), readOptions(values), values.json === true);
    return 0;
  } catch (error) {
    console.error((error as Error).message);
    return error instanceof UsageError ? 2 : 1;
  }
}

async function run(suites: ((options: Options) => Promise<Table[]>)[], options: Options, json: boolean) {
  const tables: Table[] = [];
  for (const suite of suites) {
    const measured = await suite(options);
    if (!json) measured.forEach(print);
    tables.push(...measured);
  }
  if (json) console.log(JSON.stringify({ tables }));
}

function parse(args: string[]) {
  const names = ["rounds", "orders", "users", "days", "board-users", "seconds", "workers", "concurrency"];
  const numbers = Object.fromEntries(names.map((name) => [name, { type: "string" as const }]));
  const flags = { json: { type: "boolean" as const }, help: { type: "boolean" as const, short: "h" } };
  try {
    return parseArgs({ args, options: { ...numbers, ...flags }, allowPositionals: true });
  } catch (error) {
    // Its second sentence is about arguments that begin with a dash.
    throw new UsageError((error as Error).message.split(". ")[0]);
  }
}

function suitesOf(names: string[]) {
  return (names.length > 0 ? names : Object.keys(SUITES)).map((name) => {
    const suite = SUITES[name];
    if (suite) return suite;
    throw new UsageError(`There is no suite "${name}": there are ${Object.keys(SUITES).join(", ")}`);
  });
}

function readOptions(values: Record<string, unknown>): Options {
  function numbers(name: string): number[] | undefined {
    const text = values[name];
    if (text === undefined) return undefined;
    if (/^[1-9]\d{0,8}(,[1-9]\d{0,8})*$/.test(`${text}`)) return `${text}`.split(",").map(Number);
    throw new UsageError(`--${name} must be a whole number of at least 1: got "${text}"`);
  }
  const first = (name: string) => numbers(name)?.[0];
  return {
    rounds: first("rounds") ?? 3,
    days: first("days") ?? 2,
    boardUsers: first("board-users") ?? 1_000_000,
    orders: numbers("orders"),
    users: numbers("users"),
    seconds: first("seconds"),
    workers: first("workers"),
    concurrency: first("concurrency"),
  };
}

function print({ title, rows }: Table) {
  const columns = [...new Set(Object.values(rows).flatMap(Object.keys))];
  // ordersPerSecond -> orders per second
  const head = ["", ...columns.map((name) => name.replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`))];
  const body = Object.entries(rows).map(([name, row]) => [name, ...columns.map((column) => cell(row[column]))]);
  const widths = head.map((_, index) => Math.max(...[head, ...body].map((line) => line[index]?.length ?? 0)));
  console.log(`\n${title}, median (least–most)`);
  for (const line of [head, ...body])
    console.log(line.map((text, index) => text.padEnd(widths[index] ?? 0)).join("  "));
}

const digits = new Intl.NumberFormat("en-US", { maximumSignificantDigits: 3 });

function cell(spread: Spread | undefined): string {
  if (!spread) return "";
  const [median, min, max] = [spread.median, spread.min, spread.max].map((value) => digits.format(value));
  return `${median} (${min}–${max})`;
}

process.exit(await bench(process.argv.slice(2)));
