import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { Emulator } from "../queue/emulator.ts";
import type { Queue } from "../queue/queue.ts";
import { daysBetween } from "../store/periods.ts";
import { openRedisStore } from "../store/redis.ts";
import { order } from "./support/orders.ts";
import { temporaryFolder } from "./support/program.ts";
import { deadLettersOf, freshQueue, startTestEmulator, takeAll } from "./support/queues.ts";
import { type RedisServer, startRedisServer } from "./support/redis-server.ts";
import { screenOf, startOnTerminal } from "./support/terminal.ts";
import { waitFor } from "./support/wait-for.ts";

// Real processes on a busy machine: bun's five seconds would fail a test that is only slow.
setDefaultTimeout(60_000);

const ROOT = join(import.meta.dir, "..");
const AWS = { AWS_REGION: "us-east-1", AWS_ACCESS_KEY_ID: "test", AWS_SECRET_ACCESS_KEY: "test" };

let emulator: Emulator;
let redisServer: RedisServer;
const opened: Queue[] = [];
beforeAll(async () => {
  [emulator, redisServer] = await Promise.all([startTestEmulator(), startRedisServer()]);
});
afterAll(async () => {
  for (const queue of opened) queue.close();
  await Promise.all([emulator.stop(), redisServer.stop()]);
});

const commandOf = (name: string, args: string[]) => [process.execPath, join(ROOT, `scripts/${name}.ts`), ...args];

async function run(name: string, args: string[], env: Record<string, string> = {}) {
  const own = { PATH: process.env.PATH ?? "", ...env };
  const child = Bun.spawn(commandOf(name, args), { cwd: ROOT, env: own, stdout: "pipe", stderr: "pipe" });
  const [exitCode, stdout, stderr] = await Promise.all([child.exited, child.stdout.text(), child.stderr.text()]);
  return { exitCode, stdout, stderr };
}

/** A queue of the test's own with some dead letters, and the environment that names it. */
async function prepareQueue(deadLetters = 0) {
  const queue = await freshQueue(emulator);
  opened.push(queue);
  const message = { id: "", body: "{", receiptHandle: "", sentAtMs: 0, attributes: {} };
  const dead = { message, reason: "invalid_json", errors: [] };
  for (let left = deadLetters; left > 0; left -= 10) await queue.deadLetter(Array(Math.min(10, left)).fill(dead));
  return { queue, env: { ...AWS, AWS_ENDPOINT_URL: `${emulator.endpoint}`, SQS_QUEUE_URL: queue.address.url } };
}

/** So many boards that an audit of them takes a while. */
async function prepareStore() {
  const url = redisServer.freshUrl();
  const store = await openRedisStore({ url });
  await store.record(daysBetween("2022-01-01", "2023-12-31").map((day) => order({ day })));
  await store.close();
  return { env: { REDIS_URL: url } };
}

interface Case {
  wrong: string[];
  problems: string[];
  /** A run that shows its progress and ends. */
  args: string[];
  /** What its progress is counted in. */
  unit: string;
  prepare(): Promise<{ env: Record<string, string> }>;
}

const CASES: Record<string, Case> = {
  populate: {
    wrong: "--orders many --rate -1 --days=1.5 --seed --json --invalid 60.5 --duplicates 60".split(" "),
    problems: [
      '--orders must be an integer from 1 to 100000000: got "many"',
      '--rate must be a number from 0 to 1000000: got "-1"',
      '--days must be an integer from 1 to 3650: got "1.5"',
      '--seed must be an integer from 0 to 4294967295: got "--json"',
      "--mismatch, --invalid and --duplicates add up to 120.5: at most 100",
    ],
    args: ["--orders", "500"],
    unit: "messages",
    prepare: prepareQueue,
  },
  audit: { wrong: [], problems: [], args: [], unit: "places on boards", prepare: prepareStore },
  redrive: {
    wrong: ["--limit", "0", "--reason", "odd,none", "--reason"],
    problems: [
      '--limit must be an integer from 1 to 1000000000: got "0"',
      '--reason must be one of invalid_json, invalid_order, value_mismatch, none: got "odd"',
      '--reason must be one of invalid_json, invalid_order, value_mismatch, none: got ""',
    ],
    args: ["back"],
    unit: "messages",
    prepare: () => prepareQueue(200),
  },
  bench: {
    wrong: ["--orders", "5,,x", "--rounds", "1.5"],
    problems: [
      '--orders must be an integer from 1 to 1000000000: got ""',
      '--orders must be an integer from 1 to 1000000000: got "x"',
      '--rounds must be an integer from 1 to 1000000000: got "1.5"',
    ],
    args: ["stores", "--orders", "2000", "--users", "100", "--rounds", "1"],
    unit: "measurements of record()",
    prepare: async () => ({ env: {} }),
  },
};

describe.each(Object.keys(CASES))("%s", (name) => {
  const { wrong, problems, args, unit, prepare } = CASES[name] as Case;

  test.each(["--help", "-h"])("%s is on stdout, with options, exit codes and examples", async (help) => {
    const { exitCode, stdout, stderr } = await run(name, [...args, help]);
    expect([exitCode, stderr]).toEqual([0, ""]);
    const option = /\n {2}--json +JSON on stdout and nothing else there\n {2}--help +this text\n/;
    for (const part of [/\n\nUsage: bun .*\[options\]\n\n/, option, /\n\nExamples:\n( {2}\S.*\n)+$/]) {
      expect(stdout).toMatch(part);
    }
    expect(stdout).toMatch(/\n\nExit code: 0 .+, 1 .+, 2 wrong usage, (3 .+, )?130 stopped by Ctrl-C\.\n\n/);
  });

  test("every problem of its arguments is named at once, with exit code 2", async () => {
    const { exitCode, stdout, stderr } = await run(name, ["nothing", "--bogus", "-x", "--json=yes", ...wrong]);
    expect([exitCode, stdout]).toEqual([2, ""]);
    const common = ["Unexpected argument nothing: see --help", "--json takes no value"];
    const unknown = ["Unknown option --bogus: see --help", "Unknown option -x: see --help"];
    expect(stderr.trimEnd().split("\n").sort()).toEqual([...common, ...unknown, ...problems].sort());
  });

  test("what is wrong is red on a terminal, unless it or somebody wants no colours", async () => {
    async function bytes(env: Record<string, string>, redirection = "") {
      const command = ["sh", "-c", `exec "$@" ${redirection}`, "sh", ...commandOf(name, ["--bogus"])];
      await using terminal = startOnTerminal(command, env);
      expect(await terminal.child.exited).toBe(2);
      return terminal.output();
    }
    const text = "Unknown option --bogus: see --help";
    const log = join(temporaryFolder(), "log");
    expect(await bytes({})).toBe(`\x1b[31m${text}\x1b[39m\r\n`);
    expect(await bytes({ NO_COLOR: "1" })).toBe(`${text}\r\n`);
    expect(await bytes({ TERM: "dumb" })).toBe(`${text}\r\n`);
    expect([await bytes({}, `2>${log}`), readFileSync(log, "utf8")]).toEqual(["", `${text}\n`]);
  });

  test("with --json stdout is JSON alone, and the bar is on the terminal and gone at the end", async () => {
    const { env } = await prepare();
    const file = join(temporaryFolder(), "stdout");
    const command = ["sh", "-c", `exec "$@" >${file}`, "sh", ...commandOf(name, [...args, "--json"])];
    await using terminal = startOnTerminal(command, env);
    expect(await terminal.child.exited).toBe(0);
    expect(JSON.parse(readFileSync(file, "utf8"))).toBeObject();
    expect(terminal.output()).toMatch(/[=-]{25}.* ETA /);
    expect(terminal.output()).toContain(unit);
    expect(screenOf(terminal.output()).filter((line) => !line.startsWith("Sending "))).toEqual([""]);
  });

  test("without a terminal progress is plain lines on stderr, and so it is on a dumb one", async () => {
    const { env } = await prepare();
    const { exitCode, stdout, stderr } = await run(name, args, { ...env, TERM: "xterm" });
    expect([exitCode, `${stdout}${stderr}`]).toEqual([0, expect.not.stringContaining("\x1b")]);
    expect(stderr).toMatch(/^\d+ of [\d,]+ \D+ \(\d+ %\), [\d,]+\/s$/m);
    expect(stdout).not.toContain(" %)");
    const again = await prepare();
    await using terminal = startOnTerminal(commandOf(name, args), { ...again.env, TERM: "dumb" });
    expect([await terminal.child.exited, terminal.output()]).toEqual([0, expect.not.stringContaining("\x1b")]);
  });

  test("a reader that goes away ends it, and is no crash", async () => {
    const { env } = await prepare();
    const command = ["bash", "-o", "pipefail", "-c", '"$@" 2>&1 | true', "sh", ...commandOf(name, args)];
    const child = Bun.spawn(command, { env: { PATH: process.env.PATH ?? "", ...env }, stdout: "pipe", stderr: "pipe" });
    expect([await child.exited, await child.stderr.text()]).toEqual([130, ""]);
  });
});

describe("Ctrl-C", () => {
  /** Types Ctrl-C when the bar is there and `then` is done; answers what is left to see. */
  async function interrupt(command: string[], env: Record<string, string>, then = async () => {}) {
    await using terminal = startOnTerminal(command, env);
    await waitFor("the bar", () => terminal.output().includes(" ETA "));
    await then();
    terminal.type("\x03");
    expect(await terminal.child.exited).toBe(130);
    // Throws where the cursor was hidden, and wrapping turned off.
    return screenOf(terminal.output());
  }

  test("ends populate when what is on its way has arrived", async () => {
    const { queue, env } = await prepareQueue();
    const command = commandOf("populate", ["--orders", "100000", "--rate", "50"]);
    const screen = await interrupt(command, env);
    expect(screen[0]).toStartWith("Sending 100,000 messages to ");
    expect(screen[1]).toMatch(/^Sent \d+ of 100,000 messages in /);
    expect(screen[1]).toStartWith(`Sent ${(await takeAll(queue)).length} of `);
  });

  test("ends a redrive when everything is visible again", async () => {
    const { queue, env } = await prepareQueue(600);
    let sends = 0;
    await using proxy = Bun.serve({
      port: 0,
      hostname: "127.0.0.1",
      async fetch(request) {
        const body = await request.text();
        if (request.headers.get("x-amz-target")?.endsWith("SendMessageBatch")) await Bun.sleep(20 * ++sends);
        return await fetch(emulator.endpoint, { method: "POST", headers: request.headers, body });
      },
    });
    const screen = await interrupt(commandOf("redrive", ["back"]), { ...env, AWS_ENDPOINT_URL: proxy.url.href });
    expect(screen[0]).toMatch(/^\d+ messages: \d+ invalid_json$/);
    const moved = Number(/^Moved (\d+) to /.exec(screen[1] ?? "")?.[1]);
    expect(moved).toBeLessThan(600);
    expect(await deadLettersOf(queue).depth()).toMatchObject({ visible: 600 - moved, inFlight: 0 });
  });

  test("ends an audit whose store does not answer", async () => {
    const { env } = await prepareStore();
    const screen = await interrupt(commandOf("audit", []), env, async () => {
      process.kill(redisServer.pid(), "SIGSTOP");
    }).finally(() => process.kill(redisServer.pid(), "SIGCONT"));
    expect(screen).toEqual([""]);
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

  test.each(["SIGTERM", "SIGHUP"] as const)("is the same as %s", async (signal) => {
    const { env } = await prepareQueue();
    await using terminal = startOnTerminal(commandOf("populate", ["--orders", "100000", "--rate", "50"]), env);
    await waitFor("the bar", () => terminal.output().includes(" ETA "));
    terminal.child.kill(signal);
    expect(await terminal.child.exited).toBe(130);
  });
});
