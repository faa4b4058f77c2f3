/** `bun scripts/audit.ts`: proves that the sums of the store agree. */

import { existsSync } from "node:fs";
import { parseArgs } from "node:util";
import { SingleBar } from "cli-progress";
import { readConfig } from "../config.ts";
import { type Audit, auditStore } from "../store/audit.ts";
import { openStore, type StoreAddress } from "../store/open.ts";

const FLAGS = { json: { type: "boolean" }, help: { type: "boolean", short: "h" } } as const;

const HELP = `Proves that the sums of the store agree, in orders and to the cent: days and users with the total, every board with
its days, the year boards with each user's own totals. Reads the whole store and changes nothing.

Usage: bun scripts/audit.ts [options]

  --json   one JSON object on stdout and nothing else there
  --help   this text

The store is found by the environment variables that the program reads. Exit code: 0 the sums agree, 1 they differ or the
store cannot be read, 2 wrong usage, 3 orders are being counted.

Examples:
  bun scripts/audit.ts
  REDIS_URL=redis://redis.internal:6379 bun scripts/audit.ts --json`;

/** A small store is often read again before the next order arrives. */
const ATTEMPTS = 3;

/** Runs the command and answers its exit code, as its help has them. */
async function audit(args: string[], env: Record<string, string | undefined>): Promise<number> {
  try {
    const { json, help } = parseArgs({ args, options: FLAGS }).values;
    if (!help) return await run(readConfig(env).store, json === true);
    console.log(HELP);
    return 0;
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    console.error(message);
    return code?.startsWith("ERR_PARSE_ARGS") ? 2 : 1;
  }
}

async function run(config: StoreAddress, json: boolean): Promise<number> {
  const startedMs = performance.now();
  const store = await open(config);
  try {
    for (let attempt = 1; attempt <= ATTEMPTS; attempt++) {
      const bar = new SingleBar({ format: "{bar} {percentage}% | ETA {eta_formatted}", barsize: 25, linewrap: true });
      // Each order is on four boards.
      bar.start(4 * (await store.global()).orders, 0);
      const found = await auditStore(store, (orders) => bar.increment(orders)).finally(() => bar.stop());
      if (found.moved) continue;
      report(found, (performance.now() - startedMs) / 1000, json);
      return found.differences.length > 0 ? 1 : 0;
    }
    console.error("Orders are being counted: run it again when the queue is empty");
    return 3;
  } finally {
    await store.close();
  }
}

/** The store as it is: a file that is not there is not made. */
async function open(config: StoreAddress) {
  if (config.kind === "sqlite" && !existsSync(config.path)) {
    throw new Error(`There is no store at ${config.path}: check DATA_DIR and REDIS_URL`);
  }
  return await openStore(config);
}

function report({ users, days, boards, orders, cents, differences }: Audit, seconds: number, json: boolean) {
  const agrees = differences.length === 0;
  const counts = { users, days, boards, orders };
  const read = { ...counts, revenue: cents / 100, seconds: Number(seconds.toFixed(3)) };
  if (json) return console.log(JSON.stringify({ agrees, ...read, differences }));
  const words = Object.entries(counts).map(([name, count]) => `${count.toLocaleString("en-US")} ${name}`);
  const revenue = (cents / 100).toLocaleString("en-US", { minimumFractionDigits: 2 });
  console.log(`The sums ${agrees ? "agree" : "differ"}: ${words.join(", ")}, ${revenue} in ${seconds.toFixed(1)} s`);
  for (const { what, expected, found } of differences) console.log(`  ${what}: expected ${expected}; found ${found}`);
}

process.exitCode = await audit(process.argv.slice(2), Bun.env);
