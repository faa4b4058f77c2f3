import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { validateOrder } from "../consumer/order.ts";
import type { Emulator } from "../queue/emulator.ts";
import { openQueue, type Queue } from "../queue/queue.ts";
import { locateQueue } from "../queue/setup.ts";
import { AWS } from "./support/program.ts";
import { freshFifoQueue, freshQueue, startSendProxy, startTestEmulator, takeAll } from "./support/queues.ts";
import { freePort } from "./support/redis-server.ts";

// Real processes on a busy machine: bun's five seconds would fail a test that is only slow.
setDefaultTimeout(60_000);

const ROOT = join(import.meta.dir, "..");

let emulator: Emulator;
const queues: Queue[] = [];

beforeAll(async () => {
  emulator = await startTestEmulator();
});

afterAll(async () => {
  for (const queue of queues) queue.close();
  await emulator.stop();
});

function start(args: string[], env: Record<string, string>) {
  const command = [process.execPath, "scripts/populate.ts", ...args];
  const child = Bun.spawn(command, { cwd: ROOT, env, stdout: "pipe", stderr: "pipe" });
  const ended = Promise.all([child.exited, child.stdout.text(), child.stderr.text()]);
  return { child, ended: ended.then(([exitCode, stdout, stderr]) => ({ exitCode, stdout, stderr })) };
}

const run = (args: string[], env: Record<string, string>) => start(args, env).ended;

/** A queue of the test's own, and the environment that names it. */
async function prepare(endpoint: URL | string = emulator.endpoint, fresh = freshQueue) {
  const queue = await fresh(emulator);
  queues.push(queue);
  return { queue, env: { ...AWS, AWS_ENDPOINT_URL: `${endpoint}`, SQS_QUEUE_URL: queue.address.url } };
}

const bodiesIn = async (queue: Queue) => (await takeAll(queue)).map(({ body }) => body);

/** The outcomes of the bodies, by the program's own validation, in the form of --json. */
function totalsOf(bodies: string[]) {
  const totals = { messages: bodies.length, orders: 0, counted: 0, corrected: 0, rejected: 0, duplicates: 0 };
  const seen = new Set<string>();
  let cents = 0;
  for (const body of bodies) {
    const result = validateOrder(body, "correct");
    if (result.outcome === "rejected") totals.rejected++;
    else if (seen.has(result.order.id)) totals.duplicates++;
    else {
      seen.add(result.order.id);
      totals[result.outcome]++;
      totals.orders++;
      cents += result.order.cents;
    }
  }
  return { ...totals, revenue: cents / 100 };
}

const MIX = ["--mismatch", "10", "--invalid", "10", "--duplicates", "20", "--days", "3"];

test("the embedded queue has the messages that --json reports", async () => {
  const env = { EMBEDDED_QUEUE_PORT: new URL(emulator.endpoint).port };
  const { exitCode, stdout } = await run(["--orders", "507", "--seed", "11", "--json", ...MIX], env);
  const { seed, seconds, ...reported } = JSON.parse(stdout);
  expect([exitCode, seed]).toEqual([0, 11]);
  expect(seconds).toBeGreaterThan(0);
  const queue = openQueue(await locateQueue({ name: "orders-queue", endpoint: emulator.endpoint, embedded: true }));
  queues.push(queue);
  expect(reported).toEqual(totalsOf(await bodiesIn(queue)));
  expect(reported.messages).toBe(507);
  expect(Math.min(reported.counted, reported.corrected, reported.rejected, reported.duplicates)).toBeGreaterThan(20);
});

test("a FIFO queue has the messages reported, each user's in a group, although a response was lost", async () => {
  let sends = 0;
  await using proxy = startSendProxy(emulator, async (body) => {
    if (++sends > 1) return undefined;
    const headers = { "content-type": "application/x-amz-json-1.0", "x-amz-target": "AmazonSQS.SendMessageBatch" };
    await fetch(emulator.endpoint, { method: "POST", headers, body });
    return Response.json({ __type: "InternalError" }, { status: 500 });
  });
  const { queue, env } = await prepare(proxy.url, freshFifoQueue);
  const args = ["--orders", "60", "--seed", "3", "--users", "5", "--duplicates", "50", "--json"];
  const { seed: _, seconds: __, ...reported } = JSON.parse((await run(args, env)).stdout);
  const messages = await takeAll(queue);
  expect([sends, reported.messages]).toEqual([7, 60]);
  expect(reported).toEqual(totalsOf(messages.map(({ body }) => body)));
  expect(reported.duplicates).toBeGreaterThan(10);
  for (const { body, groupId } of messages) expect(groupId).toBe(JSON.parse(body).user_id);
});

test("prints what was sent and what the totals grow by", async () => {
  const { queue, env } = await prepare();
  const { exitCode, stdout, stderr } = await run(["--orders", "200", ...MIX], env);
  const totals = totalsOf(await bodiesIn(queue));
  expect(exitCode).toBe(0);
  expect(stderr).toMatch(/^Sending 200 messages to http:.*, seed \d+\n80 of 200 messages \(40 %\), [\d,]+\/s\n/);
  expect(stdout).toMatch(/^Sent 200 messages in \d+\.\d s \([\d,]+ messages\/s\), seed \d+\.\nThe totals grow by:\n/);
  expect(stdout).toContain(`orders      ${totals.orders} (${totals.counted} counted, ${totals.corrected} corrected)\n`);
  const revenue = totals.revenue.toFixed(2).replace(/\B(?=(\d{3})+\.)/g, ",");
  expect(stdout).toContain(`revenue     ${revenue}\n`);
  expect(stdout).toEndWith(`rejected    ${totals.rejected}\n  duplicates  ${totals.duplicates}\n`);
});

test("with ON_VALUE_MISMATCH=reject mismatches are reported as rejected", async () => {
  const env = { ...(await prepare()).env, ON_VALUE_MISMATCH: "reject" };
  const { stdout } = await run(["--orders", "30", "--mismatch", "100", "--json"], env);
  expect(JSON.parse(stdout)).toMatchObject({ orders: 0, revenue: 0, corrected: 0, rejected: 30 });
});

test.each(["sns", "eventbridge", "sns+eventbridge", "mixed"] as const)(
  "--envelope %s wraps the orders, in a FIFO queue too",
  async (envelope) => {
    const { queue, env } = await prepare(emulator.endpoint, freshFifoQueue);
    const args = ["--orders", "40", "--seed", "9", "--users", "5", "--envelope", envelope, "--json", ...MIX];
    const { seed: _, seconds: __, ...reported } = JSON.parse((await run(args, env)).stdout);
    const messages = await takeAll(queue);
    const bodies = messages.map(({ body }) => body);
    expect(reported).toEqual(totalsOf(bodies));
    const counted = bodies.map((body) => validateOrder(body, "correct")).filter(({ outcome }) => outcome === "counted");
    const kinds = envelope === "mixed" ? ["eventbridge", "none", "sns", "sns+eventbridge"] : [envelope];
    expect([...new Set(counted.map(({ envelope = "none" }) => envelope))].sort()).toEqual(kinds as never);
    for (const { body, groupId } of messages) {
      const result = validateOrder(body, "correct");
      if (result.outcome !== "rejected") expect(result.order.userId).toBe(`${groupId}`);
    }
  },
);

test("without --seed every run sends other orders", async () => {
  const { queue, env } = await prepare();
  await Promise.all([run(["--orders", "50"], env), run(["--orders", "50"], env)]);
  expect(totalsOf(await bodiesIn(queue))).toMatchObject({ orders: 100, duplicates: 0 });
});

test("the same seed sends the same order ids again", async () => {
  const { queue, env } = await prepare();
  const args = ["--orders", "50", "--seed", "5"];
  await run(args, env);
  await run(args, env);
  expect(totalsOf(await bodiesIn(queue))).toMatchObject({ orders: 50, duplicates: 50 });
});

test("a queue that cannot be reached is one sentence and exit code 1", async () => {
  const { exitCode, stdout, stderr } = await run(["--json"], { EMBEDDED_QUEUE_PORT: `${freePort()}` });
  expect([exitCode, stdout]).toEqual([1, ""]);
  expect(stderr).toMatch(
    /^Cannot use the queue orders-queue at http:\/\/127\.0\.0\.1:\d+: connection refused\. Is `bun run start` running\?\n$/,
  );
});

test("a batch that fails ends the run, and the totals are those of the messages that arrived", async () => {
  const isFirstBatch = (body: string) => JSON.parse(body).Entries[0].MessageBody.includes('"O-7-1"');
  // Refused without a retry, and never in the queue: copies of its orders in other batches then count themselves.
  const refusal = { __type: "com.amazonaws.sqs#AccessDeniedException", message: "no more today" };
  const refuse = () => Response.json(refusal, { status: 400 });
  await using proxy = startSendProxy(emulator, (body) => (isFirstBatch(body) ? refuse() : undefined));
  const { queue, env } = await prepare(proxy.url);
  const { exitCode, stdout, stderr } = await run(
    ["--orders", "1000", "--seed", "7", "--duplicates", "50", "--json"],
    env,
  );
  const { seed: _, seconds: __, uncertain, ...reported } = JSON.parse(stdout);
  expect([exitCode, uncertain]).toEqual([1, 10]);
  expect(stderr).toMatch(
    /Cannot send: .*no more today\. Up to 10 more messages may be in the queue: the totals may grow by up to \d+ orders and/,
  );
  const bodies = await bodiesIn(queue);
  expect(bodies.length).toBe(70);
  expect(reported).toEqual(totalsOf(bodies));
  expect(bodies.some((body) => body.includes('"O-7-1"'))).toBe(true);
});

test("a second Ctrl-C does not wait for requests", async () => {
  const hanging = Promise.withResolvers<Response>();
  const sending = Promise.withResolvers<void>();
  await using proxy = startSendProxy(emulator, () => {
    sending.resolve();
    return hanging.promise;
  });
  const { child, ended } = start(["--orders", "1000", "--json"], (await prepare(proxy.url)).env);
  await sending.promise;
  const startedMs = performance.now();
  // Two signals close to each other may arrive as one.
  const signals = setInterval(() => child.kill("SIGINT"), 50);
  const { stdout } = await ended;
  clearInterval(signals);
  hanging.resolve(new Response());
  expect([child.signalCode, stdout]).toEqual(["SIGINT", ""]);
  expect(performance.now() - startedMs).toBeLessThan(3_000);
});

test("--rate limits the messages per second", async () => {
  const { stdout } = await run(["--orders", "21", "--rate", "40", "--json"], (await prepare()).env);
  const { messages, seconds } = JSON.parse(stdout);
  // The last of them is due half a second after the first.
  expect([messages, seconds >= 0.49]).toEqual([21, true]);
});
