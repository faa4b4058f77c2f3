/** What an order costs in every part, with each part on a core of its own, and what that comes to for many processes. */

import type { Options } from "../bench.ts";
import { cpuOf, drainOf, observe } from "./drain.ts";
import { generateOrders } from "./orders.ts";
import { type Child, rssMib } from "./processes.ts";
import { startCluster, startEmulator, startProgram, startRedis } from "./rig.ts";
import { compare, type Measurement, type Table } from "./rounds.ts";

/** The program has one core, Redis and the queue together the other. */
const [PROGRAM_CORE, OTHER_CORE] = [0, 1];
const CASES = [
  { processes: 1, masters: 1, shards: 1 },
  { processes: 2, masters: 1, shards: 1 },
  { processes: 1, masters: 3, shards: 16 },
  { processes: 2, masters: 3, shards: 16 },
  // As many as a hundred masters want.
  { processes: 1, masters: 3, shards: 128 },
];
const nameOf = ({ processes, masters, shards }: (typeof CASES)[0]) =>
  `${processes} × program, ${masters} × Redis, ${shards} shards`;

export async function scale(options: Options): Promise<Table[]> {
  const orders = Math.max(...(options.orders ?? [50_000]));
  const sides = CASES.map((one) => [nameOf(one), (seed: number) => drainPinned(one, orders, seed, options)]);
  const measured = await compare(
    `Drain of ${orders} orders, parts pinned to cores`,
    Object.fromEntries(sides),
    options,
  );
  const costsOf = (shards: number): Costs => {
    const [name] = CASES.filter((one) => one.processes === 1 && one.shards === shards).map(nameOf);
    const row = measured.rows[name ?? ""] ?? {};
    return Object.fromEntries(Object.entries(row).map(([column, { median }]) => [column, median]));
  };
  return [measured, project(costsOf)];
}
type Costs = Partial<Measurement>;

async function drainPinned(
  { processes, masters, shards }: (typeof CASES)[0],
  messages: number,
  seed: number,
  options: Options,
): Promise<Measurement> {
  await using emulator = await startEmulator(OTHER_CORE);
  const core = OTHER_CORE;
  await using redis = masters === 1 ? await startRedis(core) : await startCluster({ masters, shards, core });
  const setting = { seed, users: options.users?.[0] ?? 1_000, days: options.days };
  const orders = await emulator.sqs.fill(generateOrders(setting, { mismatch: 2, duplicates: 2 }), messages);
  await using parts = new AsyncDisposableStack();
  const own = { ...options, workers: options.workers ?? 1, core: PROGRAM_CORE, emulator, redis };
  const programs = Array.from({ length: processes }, () => parts.use(startProgram(["index.ts"], own)));
  const costs = await observe(emulator.sqs, { messages, orders }, programs, redis, emulator);
  const { cpuMicrosPerOrder = 0, redisMicrosPerOrder = 0, queueMicrosPerOrder = 0 } = costs;
  const predicted = 1e6 / Math.max(cpuMicrosPerOrder, redisMicrosPerOrder + queueMicrosPerOrder);
  return {
    ...costs,
    predictedOrdersPerSecond: predicted,
    measuredToPredicted: (costs.ordersPerSecond ?? 0) / predicted,
  };
}

/** Busier than this a core answers late. */
const UTILISATION = 0.7;
/** From a receive until the delete is done, on AWS: three trips and the queue's own time, s. */
const HELD_SECONDS = 0.05;
/** Of a standard queue (https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html). */
const MOST_IN_FLIGHT = 120_000;
/** List prices of us-east-1, dollars: a million SQS requests, a Fargate vCPU with 2 GB for an hour, a GiB of ElastiCache for a month. */
const PRICES = { millionRequests: 0.4, coreHour: 0.04048 + 2 * 0.004445, redisGibMonth: 12.2 };
/** An order id stays for one to two windows of 29 days: on average a month and a half. With a replica. */
const MONTHS_KEPT = 1.45 * 2;
/** `bun run bench memory`: bytes of an order id; a cluster has each twice, as a marker and as a claim. */
const MARKER_BYTES = 19.5;
/** The same: memory of a process. */
const PROCESS_GIB = 0.28;

/** Groups that share nothing: each has a queue and a store of its own. A hundred processes fill a queue's quota. */
const FLEETS = [
  { groups: 1, processes: 1, shards: 1 },
  { groups: 1, processes: 10, shards: 16 },
  { groups: 1, processes: 100, shards: 128 },
  { groups: 10, processes: 100, shards: 128 },
];

/** Computed, not measured: what an order costs in each part, times the orders. */
function project(costsOf: (shards: number) => Costs): Table {
  const rows = FLEETS.map(({ groups, processes, shards }) => {
    const { cpuMicrosPerOrder = 0, redisMicrosPerOrder = 0, requestsPerOrder = 0 } = costsOf(shards);
    const ordersPerSecond = (groups * processes * UTILISATION * 1e6) / cpuMicrosPerOrder;
    const masters = Math.ceil((ordersPerSecond * redisMicrosPerOrder) / 1e6 / UTILISATION);
    const coreSecondsPerMillion = (cpuMicrosPerOrder + redisMicrosPerOrder) / UTILISATION;
    const markerGibPerMillion = (MARKER_BYTES * (shards > 1 ? 2 : 1) * 1e6) / 2 ** 30;
    const row = {
      ordersPerSecond,
      redisMasters: masters,
      inFlightOfAQueue: (ordersPerSecond * HELD_SECONDS) / groups,
      shareOfItsQuota: (ordersPerSecond * HELD_SECONDS) / groups / MOST_IN_FLIGHT,
      processGib: groups * processes * PROCESS_GIB,
      markerGibPerDay: (markerGibPerMillion * ordersPerSecond * 86_400) / 1e6,
      sqsDollars: requestsPerOrder * PRICES.millionRequests,
      computeDollars: (coreSecondsPerMillion * PRICES.coreHour) / 3600,
      markerDollars: markerGibPerMillion * MONTHS_KEPT * PRICES.redisGibMonth,
    };
    return [`${groups * processes} processes`, asSpreads(row)];
  });
  return { title: "Computed from it; dollars per million orders", rows: Object.fromEntries(rows) };
}

const asSpreads = (row: Measurement) =>
  Object.fromEntries(Object.entries(row).map(([name, value]) => [name, { median: value, min: value, max: value }]));

/** One run in pieces: whether memory and the time of an order stay what they are. */
export async function endurance(options: Options): Promise<Table[]> {
  const orders = Math.max(...(options.orders ?? [10_000_000]));
  await using emulator = await startEmulator();
  await using redis = await startRedis();
  await using program = startProgram(["index.ts"], { ...options, emulator, redis });
  const users = options.users?.[0] ?? 1_000_000;
  const messages = generateOrders({ seed: 0, users, days: options.days }, { mismatch: 2, duplicates: 2 });
  const update = options.progress(orders, "orders");
  const rows: Table["rows"] = {};
  const server = redis.servers[0] as Child;
  let before = { atMs: performance.now(), cpu: cpuOf([program]), redis: cpuOf([server]) };
  let expected = 0;
  for (let tenth = 1; tenth <= 10; tenth++) {
    expected += await drainOf(program, emulator.sqs, messages, orders / 10, (done) =>
      update(((tenth - 1) * orders) / 10 + done),
    );
    const now = { atMs: performance.now(), cpu: cpuOf([program]), redis: cpuOf([server]) };
    const row = {
      ordersPerSecond: orders / 10 / ((now.atMs - before.atMs) / 1000),
      cpuMicrosPerOrder: ((now.cpu - before.cpu) * 10) / orders,
      redisMicrosPerOrder: ((now.redis - before.redis) * 10) / orders,
      rssMib: rssMib(program),
      redisRssMib: rssMib(server),
    };
    rows[`${tenth * 10} %`] = asSpreads(row);
    before = now;
  }
  const counted = (await redis.store.global()).orders;
  if (counted !== expected) throw new Error(`${counted} of ${expected} orders were counted`);
  return [{ title: `${orders} orders of ${users} users in one run`, rows }];
}
