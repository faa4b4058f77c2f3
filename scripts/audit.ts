/** `bun scripts/audit.ts`: proves that the sums of the store agree. */

import { existsSync } from "node:fs";
import { readConfig } from "../config.ts";
import { type Audit, auditStore } from "../store/audit.ts";
import { openStore } from "../store/open.ts";
import { type Context, createCommand, grouped, money, type Result } from "./command.ts";

/** A small store is often read again before the next order arrives. */
const ATTEMPTS = 3;

const audit = createCommand({
  about: `Proves that the sums of the store agree, in orders and to the cent: days and users with the total, every board with
its days, the year boards with each user's own totals. Reads the whole store and changes nothing.`,
  usage: "bun scripts/audit.ts [options]",
  options: {},
  notes: "The store is found by the environment variables that the program reads.",
  exitCodes: { 0: "the sums agree", 1: "they differ or cannot be read", 3: "orders are being counted" },
  examples: ["bun scripts/audit.ts", "REDIS_URL=redis://redis.internal:6379 bun scripts/audit.ts --json"],
  run,
});

async function run(_: object, { env, progress }: Context): Promise<Result> {
  const startedMs = performance.now();
  const { store: address } = readConfig(env);
  // The store as it is: a file that is not there is not made.
  if (address.kind === "sqlite" && !existsSync(address.path))
    throw new Error(`There is no store at ${address.path}: check DATA_DIR and REDIS_URL`);
  const store = await openStore(address);
  try {
    for (let attempt = 1; attempt <= ATTEMPTS; attempt++) {
      // Each order is on four boards.
      const update = progress(4 * (await store.global()).orders, "places on boards");
      let read = 0;
      const found = await auditStore(store, (orders) => {
        read += orders;
        update(read);
      });
      if (!found.moved) return report(found, (performance.now() - startedMs) / 1000);
    }
    return { problems: ["Orders are being counted: run it again when the queue is empty"], exitCode: 3 };
  } finally {
    await store.close();
  }
}

function report({ users, days, boards, orders, cents, differences }: Audit, seconds: number): Result {
  const agrees = differences.length === 0;
  const counts = { users, days, boards, orders };
  const words = Object.entries(counts).map(([name, count]) => `${grouped(count)} ${name}`);
  const text = [
    `The sums ${agrees ? "agree" : "differ"}: ${words.join(", ")}, ${money(cents)} in ${seconds.toFixed(1)} s`,
    ...differences.map(({ what, expected, found }) => `  ${what}: expected ${expected}; found ${found}`),
  ].join("\n");
  const json = { agrees, ...counts, revenue: cents / 100, seconds: Number(seconds.toFixed(3)), differences };
  return { text, json, ...(!agrees && { exitCode: 1 }) };
}

process.exit(await audit(process.argv.slice(2), Bun.env));
