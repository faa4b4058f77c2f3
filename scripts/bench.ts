/** `bun run bench`: how fast a full queue is drained, beside a loop that only receives and deletes. */

import { availableParallelism } from "node:os";
import { parseArgs } from "node:util";
import { isMainThread, Worker, workerData } from "node:worker_threads";
import { DeleteMessageBatchCommand, ReceiveMessageCommand } from "@aws-sdk/client-sqs";
import { createClient, type QueueAddress } from "../queue/client.ts";
import { openQueue } from "../queue/queue.ts";
import { locateQueue } from "../queue/setup.ts";
import { generate } from "./generator.ts";
import { sendMessages } from "./sender.ts";

const HELP = `Drains a full queue with the program and with a bare loop of the same SDK, in turn.

Usage: bun run bench [--orders 50000] [--users 1000] [--rounds 3] [--workers N] [--concurrency 16] [--json]

Needs redis-server. The emulator, Redis and the consumer are processes of their own on this machine; the CPU
counted is the consumer's. Rates are taken between 95 % and 5 % of the queue, so that starts do not count.`;

const SIDES = ["program", "bare SDK loop"] as const;
type Side = (typeof SIDES)[number];

interface Drain {
  ordersPerSecond: number;
  cpuMicrosPerOrder: number;
}

interface Setting {
  orders: number;
  users: number;
  workers: number;
  concurrency: number;
}

async function bench(setting: Setting, rounds: number): Promise<Record<Side, Drain[]>> {
  const results: Record<Side, Drain[]> = { program: [], "bare SDK loop": [] };
  for (let round = 0; round < rounds; round++) {
    // The order changes with every round: a machine that slows down or speeds up favours neither.
    for (const side of round % 2 === 0 ? SIDES : SIDES.toReversed()) {
      results[side].push(await drainOnce(side, setting, round));
      console.error(`round ${round + 1}, ${side}: ${JSON.stringify(results[side].at(-1))}`);
    }
  }
  return results;
}

/** A fresh emulator and a fresh Redis for every drain: none inherits what another left. */
async function drainOnce(side: Side, setting: Setting, seed: number): Promise<Drain> {
  const [queuePort, redisPort] = [freePort(), freePort()];
  await using emulator = spawn(["-e", EMULATOR], { QUEUE_PORT: `${queuePort}` });
  await using redis = spawnCommand(["redis-server", "--port", `${redisPort}`, "--save", "", "--bind", "127.0.0.1"]);
  const endpoint = `http://127.0.0.1:${queuePort}`;
  const address = await retry(() => locateQueue({ name: "bench", endpoint, embedded: true }), emulator, redis);
  await fill(address, setting, seed);
  const env = {
    AWS_REGION: "us-east-1",
    AWS_ACCESS_KEY_ID: "bench",
    AWS_SECRET_ACCESS_KEY: "bench",
    AWS_ENDPOINT_URL: endpoint,
    SQS_QUEUE_URL: address.url,
    REDIS_URL: `redis://127.0.0.1:${redisPort}`,
    PORT: "0",
    LOG_LEVEL: "warn",
    CONSUMER_WORKERS: `${setting.workers}`,
    CONSUMER_CONCURRENCY: `${setting.concurrency}`,
  };
  const bare = JSON.stringify({ address, ...setting });
  const command = side === "program" ? ["index.ts"] : ["scripts/bench.ts", "--bare", bare];
  await using consumer = spawn(command, env);
  return await observe(address, setting.orders, consumer.child);
}

/** In memory: kept on disk it would be the slowest part. */
const EMULATOR = `import { startFauxqs } from "fauxqs";
await startFauxqs({ port: Number(process.env.QUEUE_PORT), listenHost: "127.0.0.1", host: "", logger: false });`;

async function fill(address: QueueAddress, { orders, users }: Setting, seed: number) {
  const queue = openQueue(address);
  const mix = { mismatch: 2, invalid: 0, duplicates: 2, days: 30, onValueMismatch: "correct" as const };
  const messages = generate({ seed, users, nowMs: Date.now(), ...mix });
  const { error } = await sendMessages(queue, messages, { orders, rate: 0 }, new AbortController().signal, () => {});
  queue.close();
  if (error) throw error;
}

/** Watches the queue and the consumer's CPU from outside, the same way for both sides. */
async function observe(address: QueueAddress, orders: number, consumer: Bun.Subprocess): Promise<Drain> {
  const queue = openQueue(address);
  const sample = async () => {
    const { visible, inFlight } = await queue.depth();
    return { left: visible + inFlight, atMs: performance.now(), cpuMicros: await cpuMicros(consumer.pid) };
  };
  let first = await sample();
  for (let last = first; ; last = await sample()) {
    if (consumer.exitCode !== null) throw new Error("The consumer has ended");
    if (last.left > orders * 0.95) first = last;
    if (last.left < orders * 0.05) {
      queue.close();
      const done = first.left - last.left;
      return {
        ordersPerSecond: Math.round(done / ((last.atMs - first.atMs) / 1000)),
        cpuMicrosPerOrder: Math.round((last.cpuMicros - first.cpuMicros) / done),
      };
    }
    await Bun.sleep(20);
  }
}

/** User and system time of a process and all its threads (proc(5): fields 14 and 15, in ticks of 10 ms). */
async function cpuMicros(pid: number): Promise<number> {
  const stat = await Bun.file(`/proc/${pid}/stat`).text();
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[11]) + Number(fields[12])) * 10_000;
}

/** The other side: as many threads and receives in flight as the program has, receive 10 and delete them, nothing else. */
async function drainBare({ address, workers, concurrency }: Setting & { address: QueueAddress }) {
  if (isMainThread) {
    for (let worker = 0; worker < workers; worker++) {
      new Worker(new URL(import.meta.url), { workerData: { address, workers, concurrency } });
    }
    return;
  }
  const client = createClient(address);
  const QueueUrl = address.url;
  const loop = async () => {
    for (;;) {
      const receive = { QueueUrl, MaxNumberOfMessages: 10, WaitTimeSeconds: 20 };
      const { Messages = [] } = await client.send(new ReceiveMessageCommand(receive));
      const Entries = Messages.map(({ ReceiptHandle }, index) => ({ Id: `${index}`, ReceiptHandle }));
      if (Entries.length > 0) await client.send(new DeleteMessageBatchCommand({ QueueUrl, Entries }));
    }
  };
  await Promise.all(Array.from({ length: concurrency }, loop));
}

function spawn(args: string[], env: Record<string, string>) {
  return spawnCommand([process.execPath, ...args], env);
}

/** A process that ends with the block it was started in. */
function spawnCommand(command: string[], env: Record<string, string> = {}) {
  const child = Bun.spawn(command, { env: { ...Bun.env, ...env }, stdout: "ignore", stderr: "inherit" });
  async function dispose() {
    child.kill("SIGKILL");
    await child.exited;
  }
  return { child, [Symbol.asyncDispose]: dispose };
}

async function retry<T>(attempt: () => Promise<T>, ...needed: { child: Bun.Subprocess }[]): Promise<T> {
  for (;;) {
    try {
      return await attempt();
    } catch (error) {
      if (needed.some(({ child }) => child.exitCode !== null)) throw error;
      await Bun.sleep(50);
    }
  }
}

function freePort(): number {
  const server = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
  server.stop(true);
  return server.port;
}

/** Median with the least and the most. */
function spread(values: number[]) {
  const sorted = values.toSorted((a, b) => a - b);
  const median = sorted[Math.floor(sorted.length / 2)] ?? 0;
  return { median, min: sorted[0] ?? 0, max: sorted.at(-1) ?? 0 };
}

function summarize(results: Record<Side, Drain[]>) {
  const ratios = (key: keyof Drain) =>
    spread(results.program.map((drain, round) => drain[key] / (results["bare SDK loop"][round]?.[key] ?? 1)));
  const side = (name: Side) => ({
    ordersPerSecond: spread(results[name].map(({ ordersPerSecond }) => ordersPerSecond)),
    cpuMicrosPerOrder: spread(results[name].map(({ cpuMicrosPerOrder }) => cpuMicrosPerOrder)),
  });
  return {
    program: side("program"),
    bare: side("bare SDK loop"),
    ratio: { ordersPerSecond: ratios("ordersPerSecond"), cpuMicrosPerOrder: ratios("cpuMicrosPerOrder") },
  };
}

function print(summary: ReturnType<typeof summarize>) {
  const cell = ({ median, min, max }: ReturnType<typeof spread>, digits = 0) =>
    `${median.toFixed(digits)} (${min.toFixed(digits)}–${max.toFixed(digits)})`.padEnd(26);
  console.log(`${"".padEnd(16)}${"orders/s".padEnd(26)}CPU µs/order    median (min–max)`);
  for (const [name, { ordersPerSecond, cpuMicrosPerOrder }] of Object.entries(summary)) {
    const digits = name === "ratio" ? 2 : 0;
    console.log(name.padEnd(16) + cell(ordersPerSecond, digits) + cell(cpuMicrosPerOrder, digits));
  }
}

async function main() {
  const number = (value: string) => ({ type: "string" as const, default: value });
  const { values } = parseArgs({
    options: {
      orders: number("50000"),
      users: number("1000"),
      rounds: number("3"),
      workers: number(`${Math.min(availableParallelism(), 4)}`),
      concurrency: number("16"),
      bare: { type: "string" },
      json: { type: "boolean" },
      help: { type: "boolean" },
    },
  });
  if (values.help) return console.log(HELP);
  if (values.bare) return await drainBare(JSON.parse(values.bare));
  const { rounds, ...setting } = values;
  const numbers = {
    orders: Number(setting.orders),
    users: Number(setting.users),
    workers: Number(setting.workers),
    concurrency: Number(setting.concurrency),
  };
  const summary = summarize(await bench(numbers, Number(rounds)));
  if (values.json) console.log(JSON.stringify(summary));
  else print(summary);
}

if (isMainThread) await main();
else await drainBare(workerData);
