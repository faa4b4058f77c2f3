/** `bun scripts/audit.ts`: proves that the sums in the store agree. */

import { existsSync } from "node:fs";
import { readConfig } from "../config.ts";
import { type Audit, auditStore, repairTotal } from "../store/audit.ts";
import { openStore } from "../store/open.ts";
import { PERIODS } from "../store/periods.ts";
import { pluralize } from "../text.ts";
import { type CommandResult, type Context, createCommand } from "./cli.ts";
import { formatCents } from "./progress.ts";

/** A small store can often be read completely before the next order arrives. */
const ATTEMPTS = 3;

export const audit = createCommand({
  description: `Proves that the sums in the store agree, in orders and to the cent: days and users with the total, every
leaderboard with its days, the year leaderboards with each user's own totals. Reads the whole store and, without
--repair, changes nothing.`,
  usage: "bun scripts/audit.ts [options]",
  options: { repair: { help: "restore a lost overall total from the days, then audit" } },
  notes: `The store is found by the environment variables of the program. The exit code is 1 if the sums differ or cannot be
read, 3 if orders are being counted.`,
  examples: ["bun scripts/audit.ts", "REDIS_URL=redis://redis.internal:6379 bun scripts/audit.ts --json"],
  run,
});

async function run({ repair }: { repair: boolean }, { env, progress, printToStderr }: Context): Promise<CommandResult> {
  const startedMs = performance.now();
  const { store: address } = readConfig(env);
  // Opening a missing file would create it.
  if (address.kind === "sqlite" && !existsSync(address.path))
    throw new Error(`There is no store at ${address.path}: check DATA_DIR and REDIS_URL`);
  const store = await openStore(address);
  try {
    if (repair) {
      const repaired = await repairTotal(store);
      await printToStderr(repaired ? "Restored the overall total from the days" : "The overall total needs no repair");
    }
    for (let attempt = 1; attempt <= ATTEMPTS; attempt++) {
      // Every order is on a leaderboard of each period.
      const expected = PERIODS.length * (await store.global()).orders;
      const update = progress(expected, "entry on leaderboards", "entries on leaderboards");
      let read = 0;
      const result = await auditStore(store, (orders) => {
        read += orders;
        update(read);
      });
      if (!result.moved) return report(result, (performance.now() - startedMs) / 1000);
    }
    return { problems: ["Orders are being counted: run the audit again when the queue is empty"], exitCode: 3 };
  } finally {
    await store.close();
  }
}

function report({ users, days, boards, orders, cents, differences }: Audit, seconds: number): CommandResult {
  const agrees = differences.length === 0;
  const counts = [pluralize(users, "user"), pluralize(days, "day"), pluralize(boards, "leaderboard")].join(", ");
  const total = `${pluralize(orders, "order")}, ${formatCents(cents)}`;
  const lines = [
    `The sums ${agrees ? "agree" : "differ"}: ${counts}, ${total} in ${seconds.toFixed(1)} s`,
    ...differences.map(({ what, expected, found }) => `  ${what}: expected ${expected}; found ${found}`),
  ];
  const sums = { users, days, leaderboards: boards, orders, revenue: cents / 100 };
  const json = { agrees, ...sums, seconds: Number(seconds.toFixed(3)), differences };
  return { lines, json, exitCode: agrees ? 0 : 1 };
}

if (import.meta.main) process.exit(await audit(process.argv.slice(2), Bun.env));
