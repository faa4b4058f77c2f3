import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Redis } from "ioredis";
import type { Emulator } from "../queue/emulator.ts";
import type { Queue } from "../queue/queue.ts";
import { daysBetween } from "../store/periods.ts";
import { openRedisStore } from "../store/redis.ts";
import { body, order } from "./support/orders.ts";
import { AWS, temporaryFolder } from "./support/program.ts";
import { freshQueue, startTestEmulator, takeAll } from "./support/queues.ts";
import { type RedisServer, startRedisServer } from "./support/redis-server.ts";
import { screenOf, startOnTerminal } from "./support/terminal.ts";
import { waitFor } from "./support/wait-for.ts";

// Real processes on a busy machine: bun's five seconds would fail a test that is only slow.
setDefaultTimeout(60_000);

const ROOT = join(import.meta.dir, "..");
const PATH = process.env.PATH ?? "";
const ORDERS = join(temporaryFolder(), "orders.jsonl");
writeFileSync(ORDERS, `${body()}\n${body()}\n`);

let emulator: Emulator;
let redisServer: RedisServer;
const queues: Queue[] = [];
beforeAll(async () => {
  [emulator, redisServer] = await Promise.all([startTestEmulator(), startRedisServer()]);
});
afterAll(async () => {
  for (const queue of queues) queue.close();
  await Promise.all([emulator.stop(), redisServer.stop()]);
});

const commandOf = (name: string, args: string[]) => [process.execPath, join(ROOT, `scripts/${name}.ts`), ...args];

async function run(name: string, args: string[], env: Record<string, string> = {}) {
  const child = Bun.spawn(commandOf(name, args), { cwd: ROOT, env: { PATH, ...env }, stdout: "pipe", stderr: "pipe" });
  const [exitCode, stdout, stderr] = await Promise.all([child.exited, child.stdout.text(), child.stderr.text()]);
  return { exitCode, stdout, stderr };
}

/** A queue of the test's own, and the environment that names it. */
async function prepareQueue() {
  const queue = await freshQueue(emulator);
  queues.push(queue);
  return { queue, env: { ...AWS, AWS_ENDPOINT_URL: emulator.endpoint, SQS_QUEUE_URL: queue.address.url } };
}

/** A store with one order on each of the days, closed as by a copy where wanted. */
async function prepareStore(from: string, to: string, state: "open" | "closed" = "open") {
  const url = redisServer.freshUrl();
  const store = await openRedisStore({ url });
  await store.record(daysBetween(from, to).map((day) => order({ day })));
  if (state === "closed") await store.closeForCopy();
  await store.close();
  return { env: { REDIS_URL: url } };
}

describe.each([
  ["populate", ["--orders", "20", "--json"], async () => (await prepareQueue()).env],
  ["import", [ORDERS, "--json"], async () => (await prepareQueue()).env],
  ["audit", ["--json"], async () => (await prepareStore("2024-01-01", "2024-01-02")).env],
  ["redrive", ["list", "--json"], async () => (await prepareQueue()).env],
  ["copy-store", ["--reopen", "--json"], async () => (await prepareStore("2024-01-01", "2024-01-01", "closed")).env],
  ["bench", ["stores", "--orders=200", "--users=10,20", "--rounds=1", "--json"], async () => ({})],
] as const)("%s", (name, json, prepare) => {
  test("--help prints options, exit codes and examples", async () => {
    const { exitCode, stdout, stderr } = await run(name, ["--help"]);
    expect([exitCode, stderr]).toEqual([0, ""]);
    expect(stdout).toMatch(/\n\nUsage: bun .*\[options\]\n\n/);
    expect(stdout).toMatch(/\n {2}--json +print JSON on stdout and nothing else\n {2}--help +print this text\n\n/);
    expect(stdout).toMatch(/\n\nExit code: 0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C\.\n\n/);
    expect(stdout).toMatch(/\n\nExamples:\n( {2}\S.*\n)+$/);
  });

  test("an unknown option is one sentence and exit code 2", async () => {
    const stderr = "Unknown option '--bogus': see --help\n";
    expect(await run(name, ["--bogus", "3"])).toEqual({ exitCode: 2, stdout: "", stderr });
  });

  test("--json prints JSON on stdout and nothing else", async () => {
    const { exitCode, stdout } = await run(name, [...json], await prepare());
    expect([exitCode, JSON.parse(stdout)]).toEqual([0, expect.any(Object)]);
  });
});

describe("arguments", () => {
  test.each([
    ["populate", ["-x"], "Unknown option '-x'"],
    // Not the value in front of it, which `parseArgs` would name.
    ["populate", ["3", "--bogus"], "Unknown option '--bogus'"],
    ["populate", ["--bogus=3", "4", "--odd"], "Unknown option '--bogus'"],
    ["populate", ["--orders"], "Option '--orders' needs a value"],
    ["populate", ["--seed", "--json"], "Option '--seed' needs a value"],
    ["populate", ["--json=yes"], "Option '--json' does not take an argument"],
    ["populate", ["nothing"], "Unexpected argument 'nothing'"],
    ["bench", ["drain", "nothing"], "Unexpected argument 'nothing'"],
    ["redrive", ["purge", "now"], "Unexpected argument 'purge'"],
    ["redrive", ["file", "a", "b"], "Unexpected argument 'b'"],
    ["redrive", ["file"], "file needs a PATH"],
    ["import", [], "Give the FILE to import, or - for standard input"],
  ])("%s %j is one sentence", async (name, args, problem) => {
    expect(await run(name, args)).toEqual({ exitCode: 2, stdout: "", stderr: `${problem}: see --help\n` });
  });

  test.each([
    ["populate", ["--order", "3"], "--orders"],
    ["populate", ["3", "--oders=3"], "--orders"],
    ["populate", ["--dasy", "3", "4"], "--days"],
    ["populate", ["--seeed", "3", "--orders", "5"], "--seed"],
    ["redrive", ["list", "--order", "3"], "--order-id"],
    ["redrive", ["--limt=3", "--reasn", "none"], "--limit"],
  ])("%s %j: one problem, with the option that is meant", async (name, args, meant) => {
    const given = args.find((arg) => arg.startsWith("--"))?.split("=")[0];
    const stderr = `Unknown option '${given}': did you mean ${meant}?\n`;
    expect(await run(name, args)).toEqual({ exitCode: 2, stdout: "", stderr });
  });

  test.each([
    [
      "populate",
      ["--orders", "many", "--rate=-1", "--days=1.5", "--seed", "", "--invalid", "100.5"],
      [
        '--orders must be an integer from 1 to 100000000: got "many"',
        '--rate must be a number from 0 to 1000000: got "-1"',
        '--invalid must be a number from 0 to 100: got "100.5"',
        '--days must be an integer from 1 to 3650: got "1.5"',
        '--seed must be an integer from 0 to 4294967295: got ""',
      ],
    ],
    [
      "redrive",
      ["--limit", "0", "--reason", "none", "--reason=", "--order-id="],
      [
        '--reason must be a non-empty text: got ""',
        '--order-id must be a non-empty text: got ""',
        '--limit must be an integer from 1 to 1000000000: got "0"',
      ],
    ],
    ["copy-store", ["--to", ""], ['--to must be a non-empty text: got ""']],
    [
      "populate",
      ["--invalid", "60.5", "--duplicates=60"],
      ["--mismatch, --invalid and --duplicates add up to 120.5: at most 100"],
    ],
  ])("%s %j: every wrong value is named", async (name, args, problems) => {
    expect(await run(name, args)).toEqual({ exitCode: 2, stdout: "", stderr: `${problems.join("\n")}\n` });
  });

  test("-h prints help, whatever the other values are", async () => {
    expect(await run("populate", ["-h", "--orders", "0"])).toMatchObject({ exitCode: 0, stderr: "" });
  });

  test("every problem of the configuration is named, with exit code 1", async () => {
    const { exitCode, stderr } = await run("populate", [], { EMBEDDED_QUEUE_PORT: "x", LOG_LEVEL: "loud" });
    expect([exitCode, stderr.trimEnd().split("\n").length]).toEqual([1, 2]);
  });
});

describe("output", () => {
  test("problems are red on a terminal, unless it or the user wants no colours", async () => {
    async function outputOf(env: Record<string, string>, redirection = "") {
      const command = ["sh", "-c", `exec "$@" ${redirection}`, "sh", ...commandOf("populate", ["--bogus"])];
      await using terminal = startOnTerminal(command, env);
      expect(await terminal.child.exited).toBe(2);
      return terminal.output();
    }
    const text = "Unknown option '--bogus': see --help";
    const log = join(temporaryFolder(), "log");
    expect(await outputOf({})).toBe(`\x1b[31m${text}\x1b[39m\r\n`);
    expect(await outputOf({ NO_COLOR: "1" })).toBe(`${text}\r\n`);
    expect(await outputOf({ TERM: "dumb" })).toBe(`${text}\r\n`);
    expect([await outputOf({}, `2>${log}`), readFileSync(log, "utf8")]).toEqual(["", `${text}\n`]);
  });

  test("the progress bar is on the terminal and gone at the end; stdout is elsewhere", async () => {
    const { env } = await prepareQueue();
    const file = join(temporaryFolder(), "stdout");
    const command = ["sh", "-c", `exec "$@" >${file}`, "sh", ...commandOf("populate", ["--orders", "500", "--json"])];
    await using terminal = startOnTerminal(command, env);
    expect(await terminal.child.exited).toBe(0);
    expect(JSON.parse(readFileSync(file, "utf8"))).toBeObject();
    expect(terminal.output()).toMatch(/[=-]{25} \d+ of 500 messages .* ETA /);
    expect(screenOf(terminal.output())).toEqual([expect.stringMatching(/^Sending 500 messages to /), ""]);
  });

  test("progress is plain lines without a terminal, and on a dumb one", async () => {
    const { env } = await prepareQueue();
    const { exitCode, stdout, stderr } = await run("populate", ["--orders", "500"], { ...env, TERM: "xterm" });
    expect([exitCode, `${stdout}${stderr}`]).toEqual([0, expect.not.stringContaining("\x1b")]);
    expect(stderr).toMatch(/\n\d+ of 500 messages \(\d+ %\), [\d,]+\/s\n/);
    expect(stdout).not.toContain(" %)");
    await using terminal = startOnTerminal(commandOf("populate", ["--orders", "500"]), { ...env, TERM: "dumb" });
    expect([await terminal.child.exited, terminal.output()]).toEqual([0, expect.not.stringContaining("\x1b")]);
  });

  test("without a known total, progress is plain lines on a terminal too", async () => {
    const command = [
      "sh",
      "-c",
      `cat ${ORDERS} | "$@"`,
      "sh",
      ...commandOf("import", ["-", "--format=jsonl", "--dry-run"]),
    ];
    await using terminal = startOnTerminal(command, {});
    expect(await terminal.child.exited).toBe(0);
    expect(screenOf(terminal.output()).slice(0, 2)).toEqual([
      "Reading: -",
      expect.stringMatching(/^Read 2 orders in /),
    ]);
  });

  test("one message is no messages", async () => {
    const { stdout, stderr } = await run("populate", ["--orders", "1"], (await prepareQueue()).env);
    expect(stderr).toMatch(/^Sending 1 message to .*\n1 of 1 message \(100 %\), \d+\/s\n$/);
    expect(stdout).toStartWith("Sent 1 message in ");
  });

  test("a reader that goes away ends the command without an error", async () => {
    const { env } = await prepareQueue();
    const command = [
      "bash",
      "-o",
      "pipefail",
      "-c",
      '"$@" 2>&1 | true',
      "sh",
      ...commandOf("populate", ["--orders=500"]),
    ];
    const child = Bun.spawn(command, { env: { PATH, ...env }, stdout: "pipe", stderr: "pipe" });
    expect([await child.exited, await child.stderr.text()]).toEqual([130, ""]);
  });
});

describe("control characters of others do not reach the terminal", () => {
  /** Clears the screen in 7 and in 8 bits, turns text around, and begins a line of its own. */
  const HOSTILE = "x\x1b[2J\x9b2J\u202e\nOK";
  const SHOWN = "x\\u001b[2J\\u009b2J\\u202e OK";
  /** SQS refuses an escape character, and accepts the others. */
  const [IN_QUEUE, SHOWN_QUEUE] = [HOSTILE.replace("\x1b", "\x9b"), SHOWN.replace("001b", "009b")];
  const CONTROL = /(?!\n)[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/u;

  /** Neither stream has any, and every line of the output begins as it should. */
  async function expectEscaped(name: string, args: string[], env: Record<string, string>, shown = SHOWN) {
    const { stdout, stderr } = await run(name, args, env);
    expect(stdout + stderr).not.toMatch(CONTROL);
    expect(stdout + stderr).not.toMatch(/^OK/m);
    expect(stdout + stderr).toContain(shown);
    return stdout;
  }

  /** A server of the test's own that fails every request with a hostile message. */
  const startHostileServer = () =>
    Bun.serve({
      port: 0,
      hostname: "127.0.0.1",
      fetch: () => Response.json({ __type: "com.amazonaws.sqs#Refused", message: HOSTILE }, { status: 400 }),
    });

  test("audit: user ids", async () => {
    const { env } = await prepareStore("2024-01-01", "2024-01-01");
    const store = await openRedisStore({ url: env.REDIS_URL });
    await store.record([order({ userId: HOSTILE, day: "2024-01-01" })]);
    await store.close();
    const redis = new Redis(env.REDIS_URL);
    await redis.hset(`user:${HOSTILE}`, "order_count", "7");
    redis.disconnect();
    const stdout = await expectEscaped(
      "audit",
      [],
      env,
      `  user ${SHOWN}: expected 1 order, 10.00; found 7 orders, 10.00\n`,
    );
    expect(stdout).toStartWith("The sums differ: ");
    // The same value in JSON.
    const json = await expectEscaped("audit", ["--json"], env, SHOWN.replace(" OK", "\\nOK"));
    expect(JSON.parse(json).differences).toContainEqual(expect.objectContaining({ what: `user ${HOSTILE}` }));
  });

  test("redrive: bodies, reasons, file names", async () => {
    const { queue, env } = await prepareQueue();
    const message = { id: "", body: IN_QUEUE, receiptHandle: "", sentAtMs: 0, attributes: {} };
    const errors = [{ path: `/${IN_QUEUE}`, message: "is wrong" }];
    await queue.deadLetter([{ message, reason: IN_QUEUE, errors }]);
    const stdout = await expectEscaped(
      "redrive",
      [],
      env,
      `  ${SHOWN_QUEUE}\n  /${SHOWN_QUEUE}: is wrong\n  ${SHOWN_QUEUE}\n`,
    );
    expect(stdout).toEndWith(`1 message: 1 ${SHOWN_QUEUE}\n`);
    await expectEscaped("redrive", ["list", "--json"], env, `x\\u009b[2J\\u009b2J\\u202e\\nOK`);
    const path = join(temporaryFolder(), HOSTILE);
    await expectEscaped("redrive", ["file", path], env, `Moved 1 message to /`);
    const line = readFileSync(path, "utf8");
    expect([JSON.parse(line).body, line]).toEqual([IN_QUEUE, expect.not.stringMatching(CONTROL)]);
  });

  test.each([
    ["the value of an option", "populate", ["--orders", HOSTILE], {}],
    ["an argument", "populate", [HOSTILE], {}],
    ["an option", "populate", [`--${HOSTILE}`], {}],
    ["a folder", "copy-store", ["--to", "redis://127.0.0.1:1"], { DATA_DIR: HOSTILE }],
    ["a folder", "audit", [], { DATA_DIR: HOSTILE }],
    ["an argument", "bench", [HOSTILE], {}],
    ["a queue name", "../index", [], { SQS_QUEUE_NAME: HOSTILE }],
  ])("%s of %s", async (_, name, args, env) => {
    await expectEscaped(name, args, env as Record<string, string>);
  });

  test.each(["populate", "redrive", "../index"])("%s: error messages of a server", async (name) => {
    await using server = startHostileServer();
    const env = {
      ...AWS,
      AWS_ENDPOINT_URL: server.url.href,
      SQS_QUEUE_URL: `${server.url}0/q`,
      DATA_DIR: temporaryFolder(),
    };
    await expectEscaped(name, [], env);
  });
});

test("bench measures every competitor; the options given are used instead of those of --quick", async () => {
  const options = ["--quick", "--orders=500", "--rates=100", "--seconds=1", "--rounds=1", "--json"];
  const { exitCode, stdout, stderr } = await run("bench", ["drain", "latency", "memory", ...options]);
  expect([exitCode, stderr.match(/cannot .*/i)]).toEqual([0, null]);
  const [drain, latency, memory] = JSON.parse(stdout).tables;
  expect(drain.title).toBe("Drain of 500 orders of 1000 users");
  for (const name of ["program", "bare SDK loop", "bare fetch loop", "sqs-consumer"]) {
    expect(drain.rows[name].firstOrderMs.median, name).toBeGreaterThan(10);
    expect(drain.rows[name].requestsPerOrder.median, name).toBeGreaterThanOrEqual(0.2);
  }
  expect(latency.rows).toEqual({ "100 orders/s": expect.objectContaining({ p50Ms: expect.any(Object) }) });
  expect(memory.title).toBe("Memory of 4 workers after 500 orders");
  expect(memory.rows.program.peakMebibytes.median).toBeGreaterThan(50);
});

describe("Ctrl-C", () => {
  const SLOW = ["--orders", "100000", "--rate", "50"];
  const hasBar = (terminal: ReturnType<typeof startOnTerminal>) =>
    waitFor("the bar", () => terminal.output().includes(" ETA "));

  test("ends populate when the batches in flight have arrived", async () => {
    const { queue, env } = await prepareQueue();
    await using terminal = startOnTerminal(commandOf("populate", SLOW), env);
    await hasBar(terminal);
    terminal.type("\x03");
    expect(await terminal.child.exited).toBe(130);
    // Throws if the cursor was hidden or wrapping was turned off.
    const [first, second] = screenOf(terminal.output());
    expect(first).toStartWith("Sending 100,000 messages to ");
    expect(second).toStartWith(`Sent ${(await takeAll(queue)).length} of 100,000 messages in `);
  });

  test.each(["SIGTERM", "SIGHUP"] as const)("is the same as %s", async (signal) => {
    await using terminal = startOnTerminal(commandOf("populate", SLOW), (await prepareQueue()).env);
    await hasBar(terminal);
    terminal.child.kill(signal);
    expect(await terminal.child.exited).toBe(130);
  });

  test("ends an audit whose store does not respond", async () => {
    // So many leaderboards that the audit takes a while.
    const { env } = await prepareStore("2022-01-01", "2023-12-31");
    await using terminal = startOnTerminal(commandOf("audit", []), env);
    await hasBar(terminal);
    process.kill(redisServer.pid(), "SIGSTOP");
    terminal.type("\x03");
    const exitCode = await terminal.child.exited.finally(() => process.kill(redisServer.pid(), "SIGCONT"));
    expect([exitCode, screenOf(terminal.output())]).toEqual([130, [""]]);
  });

  test("ends a bench and every process that it has started", async () => {
    const command = commandOf("bench", ["latency", "--seconds", "30", "--rounds", "1"]);
    const childrenOf = (pid: number) => readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").trim().split(" ");
    await using terminal = startOnTerminal(command, {});
    await waitFor("queue, Redis and program", () => childrenOf(terminal.child.pid).length === 3, 30_000);
    const children = childrenOf(terminal.child.pid);
    // Not typed: a terminal would send it to the children as well.
    terminal.child.kill("SIGINT");
    expect(await terminal.child.exited).toBe(130);
    await waitFor("their end", () => !children.some((pid) => existsSync(`/proc/${pid}`)));
    expect(screenOf(terminal.output())).toEqual([""]);
  });
});
