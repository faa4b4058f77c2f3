/**
 * `bun run test:faults --restarts`: every fault of the store, crossed with every way in which programs are stopped while it
 * lasts. A program that receives messages and cannot record them raises their receive count. However often programs are
 * stopped, no good order may reach the dead-letter queue, and every number must be right in the end.
 *
 * `--cell full:sigterm` runs one cell, `--program DIR` another version of the program.
 */

import { join } from "node:path";
import { generate } from "../../scripts/generator.ts";
import { repairTotal } from "../../store/audit.ts";
import { dayOf, leaderboardsOf } from "../../store/periods.ts";
import type { FullStore } from "../../store/store.ts";
import { shop } from "../support/program.ts";
import { freshQueue, isEmpty, startEmulatorProcess } from "../support/queues.ts";
import { type RedisServer, startRedisServer } from "../support/redis-server.ts";
import { waitFor } from "../support/wait-for.ts";
import { createModel, type Findings, findProblems, isClean, sendMessages } from "./model.ts";
import { REDIS_FAULTS, type StoreFault } from "./store-outages.ts";
import { PROGRAM_DIR, superviseProgram } from "./supervised-program.ts";

interface Stores {
  redis: RedisServer;
  replica: RedisServer;
  store: FullStore;
  /** The day of all orders. */
  day: string;
}

const denied = (command: string): StoreFault<Stores> => ({
  begin: ({ redis }) => redis.command("ACL", "SETUSER", "default", `-${command}`),
  end: ({ redis }) => redis.command("ACL", "SETUSER", "default", `+${command}`),
});

const wrongType = (keyOf: (stores: Stores) => string): StoreFault<Stores> => ({
  begin: async (stores) => {
    await stores.redis.command("RENAME", keyOf(stores), "saved");
    await stores.redis.command("SET", keyOf(stores), "of another program");
  },
  end: (stores) => stores.redis.command("RENAME", "saved", keyOf(stores)),
});

const FAULTS: Record<string, StoreFault<Stores>> = {
  ...REDIS_FAULTS,
  no_replica: {
    begin: ({ replica }) => replica.command("REPLICAOF", "NO", "ONE"),
    end: ({ redis, replica }) => replica.command("REPLICAOF", "127.0.0.1", `${redis.port}`),
  },
  hset_denied: denied("hset"),
  zadd_denied: denied("zadd"),
  days_of_wrong_type: wrongType(() => "orders:days"),
  leaderboard_of_wrong_type: wrongType(({ day }) => `orders:board:${leaderboardsOf(day)[0]}`),
  total_lost: {
    begin: ({ redis }) => redis.command("DEL", "global:stats"),
    end: ({ store }) => repairTotal(store),
  },
};

/** How many programs run, and how many stops there are while the fault lasts, of one program after the other. */
const STOPS: Record<string, { signal: NodeJS.Signals; programs: number; times: number }> = {
  kill: { signal: "SIGKILL", programs: 1, times: 7 },
  sigterm: { signal: "SIGTERM", programs: 1, times: 7 },
  rolling_restart: { signal: "SIGTERM", programs: 4, times: 4 },
};

/** A message that is received three times while the fault lasts is dead-lettered by the fourth receive. */
const MAX_RECEIVE_COUNT = 3;
/** Short, so that messages of a killed program are visible again, and received again, while the fault lasts. */
const VISIBILITY_TIMEOUT_SECONDS = 5;
/** Within it a program starts and receives what it can. */
const STOP_INTERVAL_MS = 3_000;
const ORDERS_BEFORE = 50;
/** As many as the two workers of a program receive at once, so that each start could receive the same ones. */
const ORDERS_DURING = 20;
const TIMEOUT_MS = 45_000;

export type CellReport = Findings & { cell: string; seconds: number };

/** @param cell a fault and a stop, such as "full:sigterm" @param programDir the directory of index.ts */
export async function runCell(cell: string, programDir = PROGRAM_DIR): Promise<CellReport> {
  const startedAt = performance.now();
  const timeLeftMs = () => startedAt + TIMEOUT_MS - performance.now();
  const [faultName = "", stopName = ""] = cell.split(":");
  const [fault, stop] = [FAULTS[faultName], STOPS[stopName]];
  if (!fault || !stop)
    throw new Error(`A cell is fault:stop of ${Object.keys(FAULTS)} and ${Object.keys(STOPS)}: got ${cell}`);
  await using fixtures = await openFixtures(programDir, fault === FAULTS.no_replica ? 1 : 0, stop.programs);
  const { queue, store, model, programs, send } = fixtures;

  await waitFor("the programs to start", () => programs.every(({ hasStarted }) => hasStarted()), timeLeftMs());
  await send(ORDERS_BEFORE);
  await waitFor("the first orders to be counted", () => isEmpty(queue), timeLeftMs());
  await fault.begin(fixtures);
  await send(ORDERS_DURING);
  for (let index = 0; index < stop.times; index++) {
    await Bun.sleep(STOP_INTERVAL_MS);
    await programs[index % programs.length]?.end(stop.signal);
  }
  await fault.end(fixtures);
  await waitFor("an empty queue", () => isEmpty(queue), timeLeftMs());
  const findings = await findProblems(model, store, queue, fixtures.auditStore);
  return { cell, ...findings, seconds: Math.round((performance.now() - startedAt) / 1000) };
}

/** A queue, a Redis with a replica, and programs on both. */
async function openFixtures(programDir: string, waitReplicas: number, count: number) {
  await using opened = new AsyncDisposableStack();
  const emulator = await startEmulatorProcess();
  opened.defer(emulator.stop);
  const [redis, replica] = await Promise.all([startRedisServer(), startRedisServer()]);
  opened.defer(redis.stop);
  opened.defer(replica.stop);
  await replica.command("REPLICAOF", "127.0.0.1", `${redis.port}`);
  const attributes = { VisibilityTimeout: `${VISIBILITY_TIMEOUT_SECONDS}` };
  const queue = await freshQueue(emulator, attributes, MAX_RECEIVE_COUNT);
  opened.defer(async () => queue.close());
  const url = redis.freshUrl();
  const { openStore, auditStore } = await importFrom(programDir);
  const store = await openStore({ kind: "redis", url });
  opened.defer(store.close);
  const env = shop(queue, url, { REDIS_WAIT_REPLICAS: `${waitReplicas}` });
  const programs = Array.from({ length: count }, () => superviseProgram(env, "index.ts", programDir));
  for (const program of programs) opened.defer(program.stop);

  const model = createModel();
  const nowMs = Date.now();
  const mix = { users: 30, mismatch: 5, invalid: 5, duplicates: 5, days: 1, onValueMismatch: "correct" as const };
  const messages = generate({ seed: nowMs % 1_000_000, nowMs, ...mix });
  const send = (orders: number) => sendMessages(queue, model, messages, orders);
  const fixtures = opened.move();
  const dispose = () => fixtures.disposeAsync();
  const stores = { redis, replica, store, day: dayOf(nowMs) };
  return { ...stores, auditStore, queue, programs, model, send, [Symbol.asyncDispose]: dispose };
}

/** The store and the audit of this version of the program: another one may have other keys. */
async function importFrom(programDir: string) {
  const { openStore } = (await import(join(programDir, "store/open.ts"))) as typeof import("../../store/open.ts");
  const { auditStore } = (await import(join(programDir, "store/audit.ts"))) as typeof import("../../store/audit.ts");
  return { openStore, auditStore };
}

const ALL_CELLS = Object.keys(FAULTS).flatMap((fault) => Object.keys(STOPS).map((stop) => `${fault}:${stop}`));

/** Runs these cells, or all, one at a time, and prints a table of them. @returns the exit code */
export async function runRestarts(cells: string[], programDir: string): Promise<number> {
  const table: Record<string, Record<string, string>> = {};
  let failed = 0;
  for (const cell of cells.length > 0 ? cells : ALL_CELLS) {
    const report = await runCell(cell, programDir).catch((error: Error) => error);
    const clean = !(report instanceof Error) && isClean(report);
    if (!clean) failed++;
    console.error(`${cell}: ${report instanceof Error ? report.message : JSON.stringify(report)}`);
    const [fault = "", stop = ""] = cell.split(":");
    table[fault] = { ...table[fault], [stop]: describe(report) };
  }
  console.log("Good orders in the dead-letter queue, and differences between store and model:");
  console.table(table);
  return failed > 0 ? 1 : 0;
}

function describe(report: CellReport | Error): string {
  if (report instanceof Error) return report.message;
  const differences = report.differences.length + report.auditFindings.length + report.rejectsMissing;
  return `${report.goodOrdersDeadLettered}, ${differences}`;
}
