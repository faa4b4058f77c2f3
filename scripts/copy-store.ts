/** `bun scripts/copy-store.ts`: copies the whole store into an empty Redis or Redis Cluster. */

import { existsSync } from "node:fs";
import { readConfig } from "../config.ts";
import { auditStore } from "../store/audit.ts";
import { openStore, type StoreAddress } from "../store/open.ts";
import { leaderboardsOf } from "../store/periods.ts";
import { openRedisImport, type RedisImport } from "../store/redis-import.ts";
import { type FullStore, RECENT_OUTCOMES } from "../store/store.ts";
import { formatNumber, pluralize } from "../text.ts";
import { type CommandResult, type Context, createCommand, UsageError, type Values } from "./cli.ts";
import { formatCents } from "./progress.ts";

const OPTIONS = {
  to: { type: "text", help: "target: redis://host:port" },
  "to-cluster": { type: "text", help: "target: host:port,… of a Redis Cluster" },
  prefix: { type: "text", help: "REDIS_KEY_PREFIX of the target" },
  reopen: { help: "give up a copy: open the source for orders again" },
} as const;

export const copyStore = createCommand({
  description: `Copies totals, leaderboards and markers into an empty Redis or Redis Cluster. Closes the source first: from then on
no process records there, and orders wait in the queue. Opens the target for orders when its totals equal those of the
source. If the copy is interrupted, run it again.`,
  usage: "bun scripts/copy-store.ts [options]",
  options: OPTIONS,
  notes: "The source is found by the environment variables of the program; REDIS_WAIT_REPLICAS applies to the target.",
  examples: [
    "bun scripts/copy-store.ts --to redis://redis.internal:6379",
    "REDIS_URL=redis://old:6379 bun scripts/copy-store.ts --to-cluster node1:6379,node2:6379",
  ],
  run,
});

async function run(options: Values<typeof OPTIONS>, { env, progress, printToStderr }: Context): Promise<CommandResult> {
  const { to, "to-cluster": cluster, prefix, reopen } = options;
  if ([to, cluster, reopen].filter(Boolean).length !== 1)
    throw new UsageError(["Give one of --to, --to-cluster and --reopen"]);
  const { store: from } = readConfig(env);
  // A file that does not exist must not be created and copied as an empty store.
  if (from.kind === "sqlite" && !existsSync(from.path))
    throw new Error(`There is no store at ${from.path}: check DATA_DIR and REDIS_URL`);
  await using source = await open(from);
  if (reopen) {
    await source.reopen();
    return { lines: ["The store is open for orders again"], json: { reopened: true } };
  }
  const names = { REDIS_URL: to, REDIS_CLUSTER_NODES: cluster, REDIS_KEY_PREFIX: prefix };
  const { store: address } = readConfig({ ...names, REDIS_WAIT_REPLICAS: env.REDIS_WAIT_REPLICAS });
  if (address.kind === "sqlite") throw new Error("The target must be a Redis or a Redis Cluster");
  if ((await source.days()).length === 0)
    throw new Error("The source contains no orders: check DATA_DIR and REDIS_URL");
  const target = await openRedisImport(address, await source.timeZone());
  try {
    await source.closeForCopy();
    await printToStderr("The source is closed: processes leave orders in the queue until they use the target");
    const { markers, hashes } = await copyAll(source, target, progress);
    await using copy = await open(address);
    let missing = 0;
    for await (const page of source.markers()) missing += await target.countMissing(page, hashes);
    const result = await compare(source, copy, markers, missing);
    if (!result.problems) await target.finish();
    return result;
  } finally {
    target.close();
  }
}

/** Opens a store that is closed at the end of the block. */
async function open(address: StoreAddress) {
  const store = await openStore(address);
  return { ...store, [Symbol.asyncDispose]: store.close };
}

/** @returns the number of markers, and over how many hashes they are spread in the target */
async function copyAll(source: FullStore, target: RedisImport, progress: Context["progress"]) {
  const markers = await count(source.markers());
  const hashes = await target.begin(markers, await source.markerWindowSeconds());
  const days = await target.addDays(source);
  const leaderboards = [...new Set(days.flatMap(leaderboardsOf))];
  // Users and markers are one part each.
  const update = progress(leaderboards.length + 2, "part");
  for (const [index, leaderboard] of leaderboards.entries()) {
    await target.addLeaderboard(leaderboard, source.usersOn(leaderboard));
    update(index + 1);
  }
  for await (const page of source.users()) await target.addUsers(page);
  update(leaderboards.length + 1);
  for await (const page of source.markers()) await target.addMarkers(page, hashes);
  update(leaderboards.length + 2);
  return { markers, hashes };
}

/** Audits the copy and compares it with the source. If they agree, copies recent orders and history. @returns summary or problems */
async function compare(source: FullStore, copy: FullStore, markers: number, missing: number): Promise<CommandResult> {
  const { orders, cents, users, differences } = await auditStore(copy, () => {});
  const problems = differences.map(({ what, expected, found }) => `${what}: expected ${expected}; found ${found}`);
  const expected = await source.global();
  if (orders !== expected.orders || cents !== expected.cents)
    problems.push(`total: expected ${pluralize(expected.orders, "order")}; found ${formatNumber(orders)}`);
  if (missing > 0) problems.push(`${pluralize(missing, "marker")} missing`);
  const listed = await count(copy.users());
  if (listed !== users) problems.push(`list of users: expected ${users}; found ${listed}`);
  if (problems.length > 0) return { problems: ["The copy differs, the target stays closed:", ...problems] };
  for (const outcome of RECENT_OUTCOMES) await copy.addRecent((await source.recent(outcome, 100)).reverse());
  for await (const page of source.wholeHistory()) await copy.addHistory(page);
  const copied = `${pluralize(orders, "order")} of ${pluralize(users, "user")}, ${formatCents(cents)}`;
  const line = `Copied ${copied}, with ${pluralize(markers, "marker")}. Start every process with the target now`;
  return { lines: [line], json: { orders, users, revenue: cents / 100, markers } };
}

async function count(pages: AsyncIterable<unknown[]>): Promise<number> {
  let items = 0;
  for await (const page of pages) items += page.length;
  return items;
}

if (import.meta.main) process.exit(await copyStore(process.argv.slice(2), Bun.env));
