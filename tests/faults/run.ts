/**
 * `bun run test:faults`: real processes on a real Redis and an SQS emulator, killed and cut off on a seeded schedule
 * while orders flow; at the end every number is compared with a model that knows the right answer.
 */

import { join } from "node:path";
import { parseArgs } from "node:util";
import { CreateQueueCommand, GetQueueAttributesCommand } from "@aws-sdk/client-sqs";
import { Redis } from "ioredis";
import { createClient } from "../../queue/client.ts";
import { openQueue, type Queue } from "../../queue/queue.ts";
import { locateQueue } from "../../queue/setup.ts";
import { generate } from "../../scripts/generator.ts";
import { auditStore } from "../../store/audit.ts";
import { openStore, type StoreAddress } from "../../store/open.ts";
import { deadLettersOf, isEmpty, startEmulatorProcess, takeAll } from "../support/queues.ts";
import { cli, type RedisCluster, startRedisCluster } from "../support/redis-cluster.ts";
import { type RedisServer, startRedisServer } from "../support/redis-server.ts";
import { waitFor } from "../support/wait-for.ts";
import { createModel } from "./model.ts";
import { type FaultProxy, LINES, QUEUE_FAULTS, type QueueFault, startFaultProxy } from "./proxy.ts";
import { createRandom, type Random } from "./random.ts";

const ROOT = join(import.meta.dir, "../..");

export interface FaultOptions {
  seed: number;
  orders: number;
  kills: number;
  outages: number;
  /**
   * On a Redis Cluster; orders go on until the last outage is over. With "replicated" the programs wait for a replica:
   * nothing is lost, and nothing counted while a master has none. With "fast" a failover may lose what the dead master
   * was the only one to know, numbers and markers together.
   */
  cluster?: "replicated" | "fast";
  /** Every store outage is held for this long besides the drawn pause, ms; for outages as long as they are in life. */
  longOutageMs?: number;
}

export interface FaultReport extends FaultOptions {
  differences: string[];
  /** What `bun scripts/audit.ts` finds in the store afterwards. */
  auditFindings: unknown[];
  /** Orders that are no rejects and lie in the dead-letter queue all the same. */
  goodOrdersDead: number;
  rejectsMissing: number;
  deliveries: number;
  repeatedDeliveries: number;
  happened: Record<string, number>;
  /** The longest time from the end of a fault of this kind to the next order counted, ms. */
  longestRecoveryMs: Record<string, number>;
  seconds: number;
}

/** Longer than the store's command timeout of 5 s, so that a hung Redis alone does not show a held batch to others. */
const VISIBILITY_TIMEOUT_SECONDS = 8;
/** High: the faults come a thousand times as often as in life, and a message may meet a few of them. */
const MAX_RECEIVE_COUNT = 100;
const PROGRAMS = 2;
/** Fewer than a board read answers, so that whole boards can be compared. */
const USERS = 900;
const BACKLOG = 3000;

export async function runFaults(options: FaultOptions, say: (line: string) => void): Promise<FaultReport> {
  const startedAt = performance.now();
  const random = createRandom(options.seed);
  await using world = await openWorld(random, options.cluster);
  const { queue, store, outages } = world;
  const model = createModel();
  const happened: Record<string, number> = {};
  const longestRecoveryMs: Record<string, number> = {};

  async function suffer(kind: string, fault: () => Promise<unknown>) {
    await fault();
    happened[kind] = (happened[kind] ?? 0) + 1;
  }

  /** From now until the store takes writes and the next order is counted. */
  async function recovery(kind: string) {
    const since = performance.now();
    const works = () =>
      store.check().then(
        () => true,
        () => false,
      );
    await waitFor(`the store after ${kind}`, works, 90_000);
    const before = await counted();
    const goesOn = async () => (await counted()) !== before || model.orders() === before;
    await waitFor(`counting to go on after ${kind}`, goesOn, 90_000);
    longestRecoveryMs[kind] = Math.max(longestRecoveryMs[kind] ?? 0, Math.round(performance.now() - since));
  }

  const counted = () =>
    store.global().then(
      ({ orders }) => orders,
      () => -1,
    );
  let broken = 0;
  const feeding = feed(queue, model.expectMessage, options, () => !options.cluster || broken === options.outages);
  const killing = repeat(options.kills, async (index) => {
    await Bun.sleep(random.between(100, 1_000));
    const program = world.programs[index % PROGRAMS] as Supervised;
    const kind = random.pick(["kill_random", ...LINES.map((line) => `kill_${line}` as const), "sigterm_twice"]);
    await suffer(kind, () => program.die(kind));
  });
  const breaking = repeat(options.outages, async (index) => {
    await Bun.sleep(random.between(200, 1_500));
    const kind = random.pick(index % 2 === 0 || options.cluster ? Object.keys(outages) : ["queue"]);
    if (kind === "queue") {
      const faults = [random.pick(FAULTS), random.pick(FAULTS)];
      await suffer(faults[0] as string, () => world.queueOutage(faults, random.between(500, 3_000)));
      await recovery(kind);
    } else {
      const pauseMs = random.between(300, 2_500) + (options.longOutageMs ?? 0);
      let mend: (() => Promise<void>) | undefined;
      await suffer(kind, async () => {
        mend = (await outages[kind]?.(pauseMs)) ?? undefined;
      });
      if (options.cluster === "replicated") await Bun.sleep(2 * pauseMs).then(mend);
      await recovery(kind);
      if (options.cluster === "fast") await mend?.();
    }
    broken++;
  });

  const progress = setInterval(
    async () => say(`${await counted()} of ${model.orders()} counted, ${JSON.stringify(happened)}`),
    10_000,
  );
  await Promise.all([feeding, killing, breaking]).finally(() => clearInterval(progress));
  await waitFor("an empty queue", async () => isEmpty(queue), 180_000);
  const dead = await takeAll(deadLettersOf(queue));
  const bodies = new Set(dead.map(({ body }) => body));
  return {
    ...options,
    differences: await model.differences(store),
    auditFindings: (await auditStore(store, () => {})).differences,
    goodOrdersDead: [...bodies].filter((body) => !model.rejects.has(body)).length,
    rejectsMissing: [...model.rejects].filter((body) => !bodies.has(body)).length,
    deliveries: world.deliveries().all,
    repeatedDeliveries: world.deliveries().repeated + model.duplicates(),
    happened,
    longestRecoveryMs,
    seconds: Math.round((performance.now() - startedAt) / 1000),
  };
}

const FAULTS = Object.keys(QUEUE_FAULTS) as QueueFault[];

/** A way in which the store fails for a while. Where counting is to go on before all is whole again, it answers how to mend it. */
type StoreOutage = (ms: number) => Promise<(() => Promise<void>) | void>;

const redisOutages = (redis: RedisServer): Record<string, StoreOutage> => ({
  redis_killed: async (ms) => {
    await redis.kill();
    await Bun.sleep(ms);
    await redis.start();
  },
  redis_hung: async (ms) => {
    process.kill(redis.pid(), "SIGSTOP");
    await Bun.sleep(ms * 3);
    process.kill(redis.pid(), "SIGCONT");
  },
  redis_forgets_scripts: () => command(redis, ["SCRIPT", "FLUSH"]),
  redis_full: async (ms) => {
    await command(redis, ["CONFIG", "SET", "maxmemory", "1"]);
    await Bun.sleep(ms);
    await command(redis, ["CONFIG", "SET", "maxmemory", "0"]);
  },
  redis_read_only: async (ms) => {
    // A replica of nobody keeps its data and answers READONLY.
    await command(redis, ["REPLICAOF", "127.0.0.1", "1"]);
    await Bun.sleep(ms);
    await command(redis, ["REPLICAOF", "NO", "ONE"]);
  },
  redis_slow: (ms) => command(redis, ["CLIENT", "PAUSE", `${ms}`, "ALL"]).then(() => Bun.sleep(ms)),
});

function clusterOutages(cluster: RedisCluster, random: Random): Record<string, StoreOutage> {
  const aMaster = async () => random.pick(await cluster.masters());
  const whole = () => waitFor("a whole cluster", cluster.isWhole, 60_000);
  return {
    // Its replica takes over, and it comes back as that one's replica.
    master_killed: async () => {
      const { port } = await aMaster();
      await cluster.kill(port);
      return async () => {
        await cluster.start(port);
        await whole();
      };
    },
    // It does not know that it was away, and has requests of before waiting for it.
    master_lost_and_back: async () => {
      const pid = cluster.pid((await aMaster()).port);
      process.kill(pid, "SIGSTOP");
      return async () => {
        process.kill(pid, "SIGCONT");
        await whole();
      };
    },
    slots_moved: async () => {
      const from = await aMaster();
      const to = random.pick((await cluster.masters()).filter(({ id }) => id !== from.id));
      // Each shard lies in the middle of a thousand slots.
      await cluster.reshard(from.id, to.id, 1_100);
    },
    scripts_forgotten: async () => {
      for (const { port } of await cluster.masters()) await cli(port, "SCRIPT", "FLUSH");
    },
  };
}

async function command({ port }: RedisServer, [name = "", ...args]: string[]) {
  const redis = new Redis(port);
  await redis.call(name, ...args);
  redis.disconnect();
}

/** Sends all orders, keeping the backlog full enough that there is always something to lose. */
async function feed(
  queue: Queue,
  expectMessage: (message: Message) => void,
  { seed, orders }: FaultOptions,
  mayEnd: () => boolean,
) {
  const mix = { users: USERS, mismatch: 5, invalid: 2, duplicates: 5, days: 400, onValueMismatch: "correct" as const };
  const messages = generate({ seed, nowMs: Date.now(), ...mix });
  for (let sent = 0; sent < orders || !mayEnd(); ) {
    if ((await queue.depth()).visible > BACKLOG) await Bun.sleep(50);
    else {
      const wave = Array.from(
        { length: sent < orders ? Math.min(200, orders - sent) : 200 },
        () => messages.next().value,
      );
      for (const message of wave) expectMessage(message);
      const batches = wave.flatMap((_, at) => (at % 10 === 0 ? [wave.slice(at, at + 10)] : []));
      await Promise.all(batches.map((batch) => queue.send(batch.map(({ body }) => body))));
      sent += wave.length;
    }
  }
}
type Message = Parameters<ReturnType<typeof createModel>["expectMessage"]>[0];

async function repeat(times: number, act: (index: number) => Promise<void>) {
  for (let index = 0; index < times; index++) await act(index);
}

/** The emulator, Redis, and the programs, each behind a proxy of its own. */
async function openWorld(random: Random, kind: FaultOptions["cluster"]) {
  await using parts = new AsyncDisposableStack();
  const emulator = await startEmulatorProcess();
  parts.defer(emulator.stop);
  const { address, env, outages, stop } = kind ? await clusterStore(random, kind) : await redisStore();
  parts.defer(stop);
  const url = await createQueue(emulator.endpoint);
  const queue = openQueue(await locateQueue({ name: "", url, endpoint: emulator.endpoint, embedded: true }));
  const store = await openStore(address);
  parts.defer(() => store.close());
  const seen = new Set<string>();
  const starting = Array.from({ length: PROGRAMS }, () => startFaultProxy(emulator.endpoint, random, seen));
  const proxies = await Promise.all(starting);
  for (const proxy of proxies) parts.defer(proxy.stop);
  const programs = proxies.map((proxy) => superviseProgram(url, env, proxy));
  for (const program of programs) parts.defer(program.stop);
  const owned = parts.move();

  async function queueOutage(faults: QueueFault[], ms: number) {
    for (const { faults: on } of proxies) for (const fault of faults) on.add(fault);
    await Bun.sleep(ms);
    for (const { faults: on } of proxies) on.clear();
  }

  const deliveries = () => ({
    all: proxies.reduce((sum, proxy) => sum + proxy.deliveries.all, 0),
    repeated: proxies.reduce((sum, proxy) => sum + proxy.deliveries.repeated, 0),
  });
  return {
    queue,
    store,
    outages,
    programs,
    queueOutage,
    deliveries,
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

async function redisStore() {
  const redis = await startRedisServer();
  const url = redis.freshUrl();
  const address: StoreAddress = { kind: "redis", url };
  return { address, env: { REDIS_URL: url }, outages: redisOutages(redis), stop: redis.stop };
}

async function clusterStore(random: Random, kind: "replicated" | "fast") {
  const cluster = await startRedisCluster();
  const nodes = cluster.ports.map((port) => `127.0.0.1:${port}`).join();
  const waitReplicas = kind === "replicated" ? 1 : 0;
  const env = { REDIS_CLUSTER_NODES: nodes, REDIS_WAIT_REPLICAS: `${waitReplicas}` };
  const address = cluster.address({ waitReplicas });
  return { address, env, outages: clusterOutages(cluster, random), stop: cluster.stop };
}

type Supervised = ReturnType<typeof superviseProgram>;

/** Keeps one program running, as a container platform would. */
function superviseProgram(url: string, store: Record<string, string>, proxy: FaultProxy) {
  const env = {
    PATH: process.env.PATH ?? "",
    AWS_REGION: "us-east-1",
    AWS_ACCESS_KEY_ID: "test",
    AWS_SECRET_ACCESS_KEY: "test",
    AWS_ENDPOINT_URL: proxy.endpoint,
    SQS_QUEUE_URL: url,
    ...store,
    CONSUMER_WORKERS: "2",
    PORT: "0",
    LOG_LEVEL: "silent",
  };
  let stopped = false;
  let child = spawn();

  function spawn(): Bun.Subprocess {
    return Bun.spawn([process.execPath, "tests/faults/program.ts"], {
      cwd: ROOT,
      env,
      stdout: "ignore",
      stderr: process.env.FAULTS_DEBUG ? "inherit" : "ignore",
      onExit: async () => {
        if (stopped) return;
        await Bun.sleep(100);
        if (!stopped) child = spawn();
      },
    });
  }

  /** Dies now, or when it next comes to the line. */
  async function die(kind: string) {
    const victim = child;
    if (kind === "sigterm_twice") {
      victim.kill("SIGTERM");
      victim.kill("SIGTERM");
    } else if (kind === "kill_random") victim.kill("SIGKILL");
    else {
      const killed = Promise.withResolvers<void>();
      const line = LINES.find((name) => kind === `kill_${name}`) ?? "after_receive";
      proxy.killAt(line, () => {
        child.kill("SIGKILL");
        killed.resolve();
      });
      // A line that nobody comes to, such as a dead letter without rejects, must not end the run.
      await Promise.race([killed.promise, Bun.sleep(3_000)]);
      if (!child.killed) child.kill("SIGKILL");
      return;
    }
    await Promise.race([victim.exited, Bun.sleep(15_000)]);
    if (victim.exitCode === null && victim.signalCode === null) throw new Error(`A program outlived ${kind} by 15 s`);
  }

  async function stop() {
    stopped = true;
    child.kill("SIGKILL");
    await child.exited;
  }

  return { die, stop };
}

async function createQueue(endpoint: string): Promise<string> {
  const client = createClient({ endpoint, embedded: true });
  const { QueueUrl: deadLetterUrl = "" } = await client.send(new CreateQueueCommand({ QueueName: "orders-dlq" }));
  const arn = new GetQueueAttributesCommand({ QueueUrl: deadLetterUrl, AttributeNames: ["QueueArn"] });
  const deadLetterTargetArn = (await client.send(arn)).Attributes?.QueueArn;
  const Attributes = {
    VisibilityTimeout: `${VISIBILITY_TIMEOUT_SECONDS}`,
    RedrivePolicy: JSON.stringify({ deadLetterTargetArn, maxReceiveCount: MAX_RECEIVE_COUNT }),
  };
  const { QueueUrl = "" } = await client.send(new CreateQueueCommand({ QueueName: "orders", Attributes }));
  client.destroy();
  return QueueUrl;
}

async function main() {
  const { values } = parseArgs({
    options: {
      orders: { type: "string", default: "20000" },
      kills: { type: "string", default: "30" },
      outages: { type: "string", default: "15" },
      seed: { type: "string", default: `${Date.now() % 1_000_000}` },
      cluster: { type: "string" },
    },
  });
  const { orders, kills, outages, seed, cluster } = values;
  if (cluster !== undefined && cluster !== "replicated" && cluster !== "fast")
    throw new Error(`--cluster is replicated or fast: got ${cluster}`);
  const options: FaultOptions = {
    orders: Number(orders),
    kills: Number(kills),
    outages: Number(outages),
    seed: Number(seed),
    ...(cluster && { cluster }),
  };
  const report = await runFaults(options, console.error);
  console.log(JSON.stringify(report, null, 2));
  const clean =
    report.differences.length + report.auditFindings.length + report.goodOrdersDead + report.rejectsMissing === 0;
  console.log(clean ? "No differences" : "DIFFERENCES");
  process.exit(clean ? 0 : 1);
}

if (import.meta.main) await main();
