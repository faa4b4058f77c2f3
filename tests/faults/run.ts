/**
 * `bun run test:faults`: real processes on a real Redis and an SQS emulator, killed and cut off on a seeded schedule
 * while orders flow; at the end every number is compared with a model that knows the right answer.
 */

import { parseArgs } from "node:util";
import { generate } from "../../scripts/generator.ts";
import { openStore, type StoreAddress } from "../../store/open.ts";
import { AWS } from "../support/program.ts";
import { freshQueue, isEmpty, startEmulatorProcess } from "../support/queues.ts";
import { startRedisCluster } from "../support/redis-cluster.ts";
import { startRedisServer } from "../support/redis-server.ts";
import { waitFor } from "../support/wait-for.ts";
import { createModel, type Findings, findProblems, isClean, type Model, sendMessages } from "./model.ts";
import { type FaultProxy, LINES, QUEUE_FAULTS, type QueueFault, startFaultProxy } from "./proxy.ts";
import { createRandom, type Random } from "./random.ts";
import { runRestarts } from "./restarts.ts";
import { clusterOutages, redisOutages } from "./store-outages.ts";
import { PROGRAM_DIR, type SupervisedProgram, superviseProgram } from "./supervised-program.ts";

export interface FaultOptions {
  seed: number;
  orders: number;
  kills: number;
  outages: number;
  /**
   * On a Redis Cluster; orders are sent until the last outage is over. With "replicated" the programs wait for a replica:
   * nothing is lost, and nothing counted while a master has none. With "fast" a failover may lose what only the failed master
   * had, numbers and markers together.
   */
  cluster?: "replicated" | "fast";
}

export interface FaultReport extends FaultOptions, Findings {
  timeZone: string;
  deliveries: number;
  repeatedDeliveries: number;
  /** How often each kind of kill and outage was caused. */
  caused: Record<string, number>;
  /** The longest time from the end of an outage of this kind to the next order counted, ms. */
  longestRecoveryMs: Record<string, number>;
  seconds: number;
}

/** Longer than the store's command timeout of 5 s: a hung Redis alone does not make a batch visible to others. */
const VISIBILITY_TIMEOUT_SECONDS = 8;
/** High: the faults come a thousand times as often as in production, and a message may meet a few of them. */
const MAX_RECEIVE_COUNT = 100;
const PROGRAMS = 2;
/** One for each run. Many of the orders fall on another day than in UTC. */
const TIME_ZONES = ["UTC", "Europe/Berlin", "America/St_Johns", "Pacific/Apia"];
/** Fewer than one read of a leaderboard returns, so that whole leaderboards can be compared. */
const USERS = 900;
const BACKLOG = 3000;
const ORDERS_AT_ONCE = 200;
/** How long orders may take to be counted again after an outage. */
const RECOVERY_TIMEOUT_MS = 90_000;

type Fixtures = Awaited<ReturnType<typeof openFixtures>>;

interface Run {
  options: FaultOptions;
  random: Random;
  timeZone: string;
  fixtures: Fixtures;
  model: Model;
  report: Pick<FaultReport, "caused" | "longestRecoveryMs">;
}

export async function runFaults(options: FaultOptions, log: (line: string) => void): Promise<FaultReport> {
  const startedAt = performance.now();
  const random = createRandom(options.seed);
  const timeZone = random.pick(TIME_ZONES);
  await using fixtures = await openFixtures(random, timeZone, options.cluster);
  const { queue, store, deliveries } = fixtures;
  const model = createModel();
  const report: Run["report"] = { caused: {}, longestRecoveryMs: {} };
  const run: Run = { options, random, timeZone, fixtures, model, report };

  const showProgress = async () =>
    log(`${await counted(run)} of ${model.orders()} counted, ${JSON.stringify(report.caused)}`);
  const progress = setInterval(showProgress, 10_000);
  const causing = causeOutages(run);
  // In a cluster an outage lasts long: the orders must not be all counted before the last one.
  const sending = sendOrders(run, options.cluster ? causing : Promise.resolve());
  await Promise.all([sending, killPrograms(run), causing]).finally(() => clearInterval(progress));
  await waitFor("an empty queue", () => isEmpty(queue), 180_000);
  const findings = await findProblems(model, store, queue);
  const { all, repeated } = deliveries();
  return {
    ...options,
    timeZone,
    ...findings,
    deliveries: all,
    repeatedDeliveries: repeated + model.duplicates(),
    ...report,
    seconds: Math.round((performance.now() - startedAt) / 1000),
  };
}

const counted = ({ fixtures }: Run) =>
  fixtures.store.global().then(
    ({ orders }) => orders,
    () => -1,
  );

function countCause({ report }: Run, kind: string) {
  report.caused[kind] = (report.caused[kind] ?? 0) + 1;
}

/** Sends all orders, and others until `ended`; never more than the backlog, so that there is always something to lose. */
async function sendOrders({ options, timeZone, fixtures, model }: Run, ended: Promise<unknown>) {
  const { seed, orders } = options;
  const mix = { users: USERS, mismatch: 5, invalid: 2, duplicates: 5, days: 400, onValueMismatch: "correct" as const };
  const messages = generate({ seed, nowMs: Date.now(), timeZone, envelope: "mixed", ...mix });
  let mayEnd = false;
  void ended.then(() => {
    mayEnd = true;
  });
  for (let sent = 0; sent < orders || !mayEnd; ) {
    await waitFor(
      "room in the queue",
      async () => (await fixtures.queue.depth()).visible <= BACKLOG,
      RECOVERY_TIMEOUT_MS,
    );
    const count = sent < orders ? Math.min(ORDERS_AT_ONCE, orders - sent) : ORDERS_AT_ONCE;
    await sendMessages(fixtures.queue, model, messages, count);
    sent += count;
  }
}

const WAYS_TO_DIE = ["kill_random", ...LINES.map((line) => `kill_${line}` as const), "sigterm_twice"] as const;

async function killPrograms(run: Run) {
  const { random, options, fixtures } = run;
  for (let index = 0; index < options.kills; index++) {
    await Bun.sleep(random.between(100, 1_000));
    const kind = random.pick(WAYS_TO_DIE);
    const { program, proxy } = fixtures.programs[index % PROGRAMS] as Fixtures["programs"][number];
    await endProgram(program, proxy, kind);
    countCause(run, kind);
  }
}

async function endProgram(program: SupervisedProgram, proxy: FaultProxy, kind: (typeof WAYS_TO_DIE)[number]) {
  const line = LINES.find((name) => kind === `kill_${name}`);
  if (!line) return await (kind === "sigterm_twice" ? program.end("SIGTERM", "SIGTERM") : program.end("SIGKILL"));
  const killed = new Promise<void>((resolve) => {
    proxy.killAt(line, () => void program.end("SIGKILL").then(resolve));
  });
  // A line that is not reached, such as a dead letter without rejects, must not end the run.
  const reached = await Promise.race([killed.then(() => true), Bun.sleep(3_000).then(() => false)]);
  if (!reached) await program.end("SIGKILL");
}

async function causeOutages(run: Run) {
  const { random, options } = run;
  for (let index = 0; index < options.outages; index++) {
    await Bun.sleep(random.between(200, 1_500));
    if (index % 2 === 0 || options.cluster) await causeStoreOutage(run);
    else await causeQueueOutage(run);
  }
}

async function causeStoreOutage(run: Run) {
  const { random, options, fixtures } = run;
  const kind = random.pick(Object.keys(fixtures.outages));
  const durationMs = random.between(300, 2_500);
  const restore = await fixtures.outages[kind]?.(durationMs);
  countCause(run, kind);
  if (options.cluster === "replicated") {
    // Nothing is counted while the master has no replica.
    await Bun.sleep(2 * durationMs);
    await restore?.();
  }
  await measureRecovery(run, kind);
  if (options.cluster === "fast") await restore?.();
}

async function causeQueueOutage(run: Run) {
  const { random, fixtures } = run;
  const names = Object.keys(QUEUE_FAULTS) as QueueFault[];
  const faults = [random.pick(names), random.pick(names)];
  await fixtures.queueOutage(faults, random.between(500, 3_000));
  countCause(run, faults[0] as QueueFault);
  await measureRecovery(run, "queue");
}

/** Waits until the store takes orders and the next one is counted. */
async function measureRecovery(run: Run, kind: string) {
  const { model, fixtures, report } = run;
  const since = performance.now();
  const takesOrders = () =>
    fixtures.store.check().then(
      () => true,
      () => false,
    );
  await waitFor(`the store after ${kind}`, takesOrders, RECOVERY_TIMEOUT_MS);
  const before = await counted(run);
  const resumed = async () => (await counted(run)) !== before || model.orders() === before;
  await waitFor(`counting to resume after ${kind}`, resumed, RECOVERY_TIMEOUT_MS);
  report.longestRecoveryMs[kind] = Math.max(report.longestRecoveryMs[kind] ?? 0, Math.round(performance.now() - since));
}

/** The emulator, the store, and the programs, each with a proxy of its own before the emulator. */
async function openFixtures(random: Random, timeZone: string, kind: FaultOptions["cluster"]) {
  await using opened = new AsyncDisposableStack();
  const emulator = await startEmulatorProcess();
  opened.defer(emulator.stop);
  const { address, env, outages, stop } = kind ? await startCluster(random, kind) : await startRedis();
  opened.defer(stop);
  const attributes = { VisibilityTimeout: `${VISIBILITY_TIMEOUT_SECONDS}` };
  const queue = await freshQueue(emulator, attributes, MAX_RECEIVE_COUNT);
  opened.defer(async () => queue.close());
  const store = await openStore({ ...address, timeZone });
  opened.defer(store.close);
  const seen = new Set<string>();
  const starting = Array.from({ length: PROGRAMS }, () => startFaultProxy(emulator.endpoint, random, seen));
  const proxies = await Promise.all(starting);
  for (const proxy of proxies) opened.defer(async () => proxy.stop());
  const programs = proxies.map((proxy) => {
    const own = { ...AWS, AWS_ENDPOINT_URL: proxy.endpoint, SQS_QUEUE_URL: queue.address.url };
    return { proxy, program: superviseProgram({ ...own, ...env, TIME_ZONE: timeZone }, "tests/faults/program.ts") };
  });
  for (const { program } of programs) opened.defer(program.stop);
  const fixtures = opened.move();

  async function queueOutage(faults: QueueFault[], durationMs: number) {
    for (const { faults: on } of proxies) for (const fault of faults) on.add(fault);
    await Bun.sleep(durationMs);
    for (const { faults: on } of proxies) on.clear();
  }

  const deliveries = () => ({
    all: proxies.reduce((sum, proxy) => sum + proxy.deliveries.all, 0),
    repeated: proxies.reduce((sum, proxy) => sum + proxy.deliveries.repeated, 0),
  });
  const dispose = () => fixtures.disposeAsync();
  return { queue, store, outages, programs, queueOutage, deliveries, [Symbol.asyncDispose]: dispose };
}

async function startRedis() {
  const redis = await startRedisServer();
  const url = redis.freshUrl();
  const address: StoreAddress = { kind: "redis", url };
  return { address, env: { REDIS_URL: url }, outages: redisOutages(redis), stop: redis.stop };
}

async function startCluster(random: Random, kind: "replicated" | "fast") {
  const cluster = await startRedisCluster();
  const nodes = cluster.ports.map((port) => `127.0.0.1:${port}`).join();
  const waitReplicas = kind === "replicated" ? 1 : 0;
  const env = { REDIS_CLUSTER_NODES: nodes, REDIS_WAIT_REPLICAS: `${waitReplicas}` };
  const address = cluster.address({ waitReplicas });
  return { address, env, outages: clusterOutages(cluster, random), stop: cluster.stop };
}

async function main() {
  const { values } = parseArgs({
    options: {
      orders: { type: "string", default: "20000" },
      kills: { type: "string", default: "30" },
      outages: { type: "string", default: "15" },
      seed: { type: "string", default: `${Date.now() % 1_000_000}` },
      cluster: { type: "string" },
      restarts: { type: "boolean", default: false },
      cell: { type: "string", multiple: true, default: [] },
      program: { type: "string", default: PROGRAM_DIR },
    },
  });
  if (values.restarts) process.exit(await runRestarts(values.cell, values.program));
  const { orders, kills, outages, seed, cluster } = values;
  if (cluster !== undefined && cluster !== "replicated" && cluster !== "fast")
    throw new Error(`--cluster is replicated or fast: got ${cluster}`);
  const numbers = { orders: Number(orders), kills: Number(kills), outages: Number(outages), seed: Number(seed) };
  const report = await runFaults({ ...numbers, ...(cluster && { cluster }) }, console.error);
  console.log(JSON.stringify(report, null, 2));
  console.log(isClean(report) ? "No differences" : "DIFFERENCES");
  process.exit(isClean(report) ? 0 : 1);
}

if (import.meta.main) await main();
