import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { validateOrder } from "../consumer/order.ts";
import type { Queue } from "../queue/queue.ts";
import { type GeneratedMessage, generate, isOrder } from "../scripts/generator.ts";
import { dayOf } from "../store/periods.ts";
import { body } from "./support/orders.ts";
import { AWS, startProgram, temporaryFolder } from "./support/program.ts";
import {
  deadLettersOf,
  freshFifoQueue,
  freshQueue,
  isEmpty,
  startEmulatorProcess,
  startSendProxy,
  takeAll,
} from "./support/queues.ts";
import { screenOf, startOnTerminal } from "./support/terminal.ts";
import { waitFor } from "./support/wait-for.ts";

// Real processes on a busy machine: bun's five seconds would fail a test that is only slow.
setDefaultTimeout(120_000);

const ROOT = join(import.meta.dir, "..");
const PATH = process.env.PATH ?? "";

let emulator: Awaited<ReturnType<typeof startEmulatorProcess>>;
const queues: Queue[] = [];
beforeAll(async () => {
  emulator = await startEmulatorProcess();
});
afterAll(async () => {
  for (const queue of queues) queue.close();
  await emulator.stop();
});

/** A queue of the test's own, and the environment that names it. */
async function prepare(endpoint: URL | string = emulator.endpoint, fresh = freshQueue) {
  const queue = await fresh(emulator);
  queues.push(queue);
  return { queue, env: { ...AWS, AWS_ENDPOINT_URL: `${endpoint}`, SQS_QUEUE_URL: queue.address.url } };
}

interface Input {
  env?: Record<string, string>;
  stdin?: string | Uint8Array;
  script?: string;
}

function start(args: string[], { env = {}, stdin = "", script = "import" }: Input = {}) {
  const command = [process.execPath, join(ROOT, `scripts/${script}.ts`), ...args];
  const child = Bun.spawn(command, {
    cwd: ROOT,
    env: { PATH, ...env },
    stdin: new Blob([stdin as string]),
    stdout: "pipe",
    stderr: "pipe",
  });
  const ended = Promise.all([child.exited, child.stdout.text(), child.stderr.text()]);
  return { child, ended: ended.then(([exitCode, stdout, stderr]) => ({ exitCode, stdout, stderr })) };
}

/** Waits for the end of a process. @returns the most memory it had, MiB. The maximum of `resourceUsage()` includes that of this process */
async function peakOf({ pid, exited }: Bun.Subprocess): Promise<number> {
  let [kibibytes, isRunning] = [0, true];
  void exited.then(() => {
    isRunning = false;
  });
  await waitFor(
    "the end",
    () => {
      const status = isRunning && existsSync(`/proc/${pid}/status`) ? readFileSync(`/proc/${pid}/status`, "utf8") : "";
      kibibytes = Number(/VmHWM:\s+(\d+)/.exec(status)?.[1] ?? kibibytes);
      return !isRunning;
    },
    120_000,
  );
  return kibibytes / 1024;
}

const run = (args: string[], input?: Input) => start(args, input).ended;

/** Runs the command with --json. @returns what it printed, without what differs from run to run */
async function runJson(args: string[], input?: Input) {
  const { exitCode, stdout, stderr } = await run([...args, "--json"], input);
  const { seconds, ...json } = JSON.parse(stdout || "{}");
  return {
    exitCode,
    json,
    problems: stderr.split("\n").filter((line) => !/^(Sending to|Reading)|\d+ %\), |^$/.test(line)),
  };
}

/** Writes a file. @returns its path */
function fileOf(name: string, content: string | Uint8Array): string {
  const path = join(temporaryFolder(), name);
  writeFileSync(path, content);
  return path;
}

const bodiesIn = async (queue: Queue) => (await takeAll(queue)).map((message) => message.body);
const jsonLines = (path: string) =>
  readFileSync(path, "utf8")
    .split("\n")
    .flatMap((line) => (line ? [JSON.parse(line)] : []));

/** Orders as a shop sends them, some of them corrected. */
function generated(count: number, seed = 1): GeneratedMessage[] {
  const nowMs = Date.parse("2025-06-01T12:00:00Z");
  const options = { seed, users: 50, mismatch: 10, invalid: 0, duplicates: 0, days: 5, nowMs };
  return [...generate({ ...options, onValueMismatch: "correct" }).take(count)];
}

/** What the orders add to the totals, in the form of --json. */
function growthOf(messages: GeneratedMessage[]) {
  const orders = messages.filter(isOrder);
  const of = (outcome: string) => messages.filter(({ expected }) => expected === outcome).length;
  const revenue = orders.reduce((sum, { cents }) => sum + cents, 0) / 100;
  return { orders: orders.length, revenue, counted: of("counted"), corrected: of("corrected") };
}

const quoted = (text: unknown) => `"${`${text}`.replaceAll('"', '""')}"`;

/** The messages as CSV, a row an item. */
function csvOf(messages: GeneratedMessage[], lineBreak = "\n"): string {
  const rows = messages.flatMap(({ body }) => {
    const { items, ...order } = JSON.parse(body);
    return items.map((item: Record<string, unknown>) =>
      [
        order.order_id,
        order.user_id,
        order.order_timestamp,
        order.order_value,
        ...Object.values(item),
        order.shipping_address,
      ]
        .map(quoted)
        .join(","),
    );
  });
  const header = "order_id,user_id,order_timestamp,order_value,product_id,quantity,price_per_unit,shipping_address";
  return [header, ...rows, ""].join(lineBreak);
}

describe("JSON lines", () => {
  test("valid orders are in the queue unchanged; rejects are in the file, with line, path and reason", async () => {
    const { queue, env } = await prepare();
    const sent = [body(), body({ order_value: 12, note: "\u{1f600} “ü” \\ud800" }), body()];
    const negative = body({ order_value: -1 });
    const rejects = join(temporaryFolder(), "rejects.jsonl");
    const file = fileOf("orders.jsonl", [sent[0], negative, "", "{no json", sent[1], "  ", sent[2]].join("\n"));
    const { exitCode, json, problems } = await runJson([file, "--rejects", rejects], { env });
    const growth = { orders: 3, revenue: 30, counted: 2, corrected: 1, rejected: 2 };
    expect(json).toEqual({ sent: 3, ...growth, oldest: "2024-12-13", files: [{ file, ...growth }] });
    expect([exitCode, problems]).toEqual([1, [`Rejected: 2 orders (1 invalid_order, 1 invalid_json). See ${rejects}`]]);
    expect((await bodiesIn(queue)).sort()).toEqual(sent.sort());
    expect(jsonLines(rejects)).toEqual([
      {
        file,
        line: 2,
        reason: "invalid_order",
        errors: [{ path: "/order_value", message: "must be a finite number of at least 0, is -1" }],
        body: negative,
      },
      {
        file,
        line: 4,
        reason: "invalid_json",
        errors: [{ path: "", message: expect.stringContaining("JSON") }],
        body: "{no json",
      },
    ]);
  });

  test("byte order mark, CRLF, several gzip files in one, and standard input", async () => {
    const { queue, env } = await prepare();
    const sent = Array.from({ length: 6 }, () => body());
    const text = `\ufeff${sent.slice(0, 3).join("\r\n")}\r\n`;
    const gzip = Buffer.concat([gzipSync(`${sent[3]}\n`), gzipSync(`${sent[4]}`)]);
    // Recognized by its content, whatever its name is.
    const files = [fileOf("a.ndjson", text), fileOf("b.jsonl", gzip), "-"];
    const { exitCode, json } = await runJson([...files, "--format", "jsonl"], { env, stdin: gzipSync(sent[5] ?? "") });
    expect([exitCode, json.sent, json.rejected]).toEqual([0, 6, 0]);
    expect(json.files.map(({ orders }: { orders: number }) => orders)).toEqual([3, 2, 1]);
    expect((await bodiesIn(queue)).sort()).toEqual(sent.sort());
  });

  test("ON_VALUE_MISMATCH of the environment applies", async () => {
    const file = fileOf("a.jsonl", `${body({ order_value: 12 })}\n${body()}`);
    const { json, problems } = await runJson([file, "--dry-run"], { env: { ON_VALUE_MISMATCH: "reject" } });
    expect(json).toMatchObject({ counted: 1, corrected: 0, rejected: 1 });
    expect(problems).toEqual([
      "Rejected: 1 order (1 value_mismatch):",
      expect.stringMatching(/^ {2}\/.*a\.jsonl:1: \/order_value: must be the total of the items/),
    ]);
  });

  test("ON_IMPLAUSIBLE_DATE and TIME_ZONE of the environment apply", async () => {
    const times = ["1999-12-31T22:59:59Z", "1999-12-31T23:00:00Z"];
    const file = fileOf("a.jsonl", times.map((order_timestamp) => body({ order_timestamp })).join("\n"));
    const env = { ON_IMPLAUSIBLE_DATE: "reject", TIME_ZONE: "Europe/Berlin" };
    const { json, problems } = await runJson([file, "--dry-run"], { env });
    expect(json).toMatchObject({ counted: 1, rejected: 1, oldest: "2000-01-01" });
    expect(problems).toContainEqual(
      expect.stringContaining("a.jsonl:1: /order_timestamp: must not be before 2000-01-01"),
    );
  });

  test("lines that are not UTF-8, longer than a message, or much longer are rejects, and the others are sent", async () => {
    const { queue, env } = await prepare();
    const [first, last] = [body(), body()];
    const latin1 = Buffer.from(body({ shipping_address: "Zürich" }), "latin1");
    const large = body({ note: "x".repeat(1024 * 1024) });
    const huge = Buffer.alloc(100_000_000, "y");
    const parts = [first, latin1, large, huge, last].flatMap((part) => [Buffer.from(part), Buffer.from("\n")]);
    const rejects = join(temporaryFolder(), "rejects.jsonl");
    const { child, ended } = start([fileOf("a.jsonl", Buffer.concat(parts)), "--rejects", rejects], { env });
    const peak = await peakOf(child);
    expect(await ended).toMatchObject({ exitCode: 1 });
    expect((await bodiesIn(queue)).sort()).toEqual([first, last].sort());
    expect(jsonLines(rejects).map(({ line, reason, errors }) => [line, reason, errors[0].message])).toEqual([
      [2, "invalid_json", "must be UTF-8"],
      [3, "too_large", `must be at most 1,048,576 bytes, is ${large.length.toLocaleString("en-US")}`],
      [4, "too_large", "must be at most 8,388,608 bytes, is 100,000,000"],
    ]);
    expect(jsonLines(rejects)[1].body).toBe(large);
    expect(peak).toBeLessThan(250);
  });

  test("characters that SQS does not accept are sent as their escapes", async () => {
    const { queue, env } = await prepare();
    await run([fileOf("a.jsonl", body({ note: "\ufffe\uffff\ufffd" }))], { env });
    const [sent = ""] = await bodiesIn(queue);
    expect([JSON.parse(sent).note, /[\ufffe\uffff]/.test(sent)]).toEqual(["\ufffe\uffff\ufffd", false]);
  });

  test("a FIFO queue has each user's orders in a group", async () => {
    const { queue, env } = await prepare(emulator.endpoint, freshFifoQueue);
    const users = ["U1", "U2", "Jürgen K.", "U1"];
    const file = fileOf("a.jsonl", users.map((user_id) => body({ user_id })).join("\n"));
    expect((await runJson([file], { env })).json.sent).toBe(4);
    const groups = (await takeAll(queue)).map(({ body, groupId }) => [JSON.parse(body).user_id, groupId]);
    expect(groups.sort()).toEqual([
      // SQS does not accept such a group id.
      ["Jürgen K.", expect.stringMatching(/^[0-9a-f]{64}$/)],
      ["U1", "U1"],
      ["U1", "U1"],
      ["U2", "U2"],
    ]);
  });
});

describe("dead letters and rejects", () => {
  test("what `redrive file` wrote is sent once it is fixed, and rejected again where it is not", async () => {
    const { queue, env } = await prepare();
    const deadLetters = deadLettersOf(queue);
    queues.push(deadLetters);
    const broken = [body({ user_id: 7 }), body({ user_id: 8 }), body({ user_id: 9 })];
    const errors = [{ path: "/user_id", message: "must be a string" }];
    const messages = broken.map((body) => ({ id: "", body, receiptHandle: "", sentAtMs: 0, attributes: {} }));
    await queue.deadLetter(messages.map((message) => ({ message, reason: "invalid_order", errors })));
    const path = join(temporaryFolder(), "rejected.jsonl");
    expect((await run(["file", path], { env, script: "redrive" })).exitCode).toBe(0);
    // Fixed as text, fixed as JSON, and forgotten.
    const lines = jsonLines(path).map((line) => {
      const order = JSON.parse(line.body);
      if (order.user_id === 7) return { ...line, body: line.body.replace(":7", ':"U7"') };
      return order.user_id === 8
        ? { body: { ...order, user_id: "U8" }, ...{ ...line, body: { ...order, user_id: "U8" } } }
        : line;
    });
    writeFileSync(path, lines.map((line) => JSON.stringify(line)).join("\n"));
    const rejects = join(temporaryFolder(), "rejects.jsonl");
    const { exitCode, json } = await runJson([path, "--rejects", rejects], { env });
    expect([exitCode, json.sent, json.rejected]).toEqual([1, 2, 1]);
    const users = (await bodiesIn(queue)).map((body) => JSON.parse(body).user_id);
    expect(users.sort()).toEqual(["U7", "U8"]);
    // The file of rejects is imported the same way.
    const [{ body: inner }] = jsonLines(rejects);
    expect(JSON.parse(inner).user_id).toBe(9);
    writeFileSync(
      rejects,
      readFileSync(rejects, "utf8").replace(String.raw`\"user_id\":9`, String.raw`\"user_id\":\"U9\"`),
    );
    expect(await runJson([rejects], { env })).toMatchObject({ exitCode: 0, json: { sent: 1 } });
    expect((await bodiesIn(queue)).map((body) => JSON.parse(body).user_id)).toEqual(["U9"]);
  });

  test("an order with fields of those names is an order", async () => {
    const order = body({ reason: "gift", errors: [], body: "blue", message_id: "m" });
    const { json } = await runJson([fileOf("a.jsonl", order), "--dry-run"]);
    expect(json).toMatchObject({ orders: 1, rejected: 0 });
  });

  test("a file of rejects is not written over", async () => {
    const path = fileOf("rejects.jsonl", body({ user_id: 1 }));
    const before = readFileSync(path, "utf8");
    const { exitCode, stderr } = await run([path, "--dry-run", "--rejects", path]);
    expect([exitCode, stderr]).toEqual([1, `${path} is not empty: give --rejects the name of a new file\n`]);
    expect(readFileSync(path, "utf8")).toBe(before);
  });
});

describe("CSV", () => {
  test.each(["\n", "\r\n"])("rows of items are the same orders as JSON lines (%j)", async (lineBreak) => {
    const { queue, env } = await prepare();
    const messages = generated(300);
    const file = fileOf("orders.csv", csvOf(messages, lineBreak));
    const { exitCode, json } = await runJson([file], { env });
    expect([exitCode, json]).toEqual([0, expect.objectContaining({ sent: 300, ...growthOf(messages) })]);
    const received = (await bodiesIn(queue)).map((body) => validateOrder(body, "correct"));
    const expected = messages.map(({ body }) => validateOrder(body, "correct"));
    const byId = (results: typeof received) =>
      new Map(results.map((result) => ["order" in result && result.order.id, result]));
    expect(byId(received)).toEqual(byId(expected));
  });

  test("a row is an order with items as JSON; columns are mapped, others ignored, one address has line breaks", async () => {
    const { queue, env } = await prepare();
    const items = [{ product_id: "P1", quantity: 2, price_per_unit: 2.5 }];
    const cells = ["X", "#1", "U1, Ltd", "2024-12-13T10:00:00Z", "5.00", JSON.stringify(items), 'say "hi"\r\nZürich'];
    const header = 'note,OrderNumber,"Customer, name",order_timestamp,order_value,items,shipping_address';
    const file = fileOf("a.csv", `\ufeff${header}\r\n${cells.map(quoted).join(",")}`);
    const map = ["--map", "order_id=OrderNumber,user_id=Customer, name"];
    expect((await runJson([file, ...map], { env })).exitCode).toBe(0);
    expect((await bodiesIn(queue)).map((body) => JSON.parse(body))).toEqual([
      {
        order_id: "#1",
        user_id: "U1, Ltd",
        order_timestamp: "2024-12-13T10:00:00Z",
        order_value: 5,
        shipping_address: 'say "hi"\r\nZürich',
        items,
      },
    ]);
  });

  test("rejects have the line on which the order begins, and what is wrong with which row", async () => {
    const time = "2024-12-13T10:00:00Z";
    const rows = [
      "order_id,user_id,order_timestamp,order_value,product_id,quantity,price_per_unit,shipping_address",
      "",
      `1,U1,${time},10,P1,1,10,"two\r\nlines"`,
      ",,,,,,,",
      `2,U1,${time},"1,000",P1,1,1000,`,
      `3,U1,${time},30,P1,1,10,`,
      "3,U2,,,P2,1,20,",
      `4,U1,${time},10,P1,1`,
      `5,U\xfc,${time},10,P1,1,10,`,
      `6,U1,${time},10,P1,1,10,`,
      `,U1,${time},10,P1,1,10,`,
      `,U1,${time},10,P1,1,10,`,
    ];
    const rejects = join(temporaryFolder(), "rejects.jsonl");
    const file = fileOf("a.csv", Buffer.from(rows.join("\r\n"), "latin1"));
    const { json } = await runJson([file, "--dry-run", "--rejects", rejects]);
    expect(json).toMatchObject({ orders: 2, revenue: 20, rejected: 6 });
    expect(jsonLines(rejects).map(({ line, errors }) => [line, errors[0].path, errors[0].message])).toEqual([
      [6, "/order_value", 'must be a finite number of at least 0, is "1,000"'],
      [7, "/user_id", "must be the same in all rows: line 8 differs"],
      [9, "", "line 9 must have 8 cells, has 6"],
      [10, "/user_id", "must be UTF-8 in line 10"],
      [12, "/order_id", "is required"],
      [13, "/order_id", "is required"],
    ]);
  });

  test("an order of more rows than a message holds is a reject", async () => {
    const row = "1,U1,2024-12-13T10:00:00Z,1,P,1,1\n";
    const header = "order_id,user_id,order_timestamp,order_value,product_id,quantity,price_per_unit\n";
    const { json, problems } = await runJson([fileOf("a.csv", header + row.repeat(40_000)), "--dry-run"]);
    expect(json).toMatchObject({ orders: 0, rejected: 1 });
    expect(problems[1]).toContain(":2: /: must be at most 1,048,576 bytes, is ");
  });

  test.each([
    [
      "a,b\n1,2\n",
      [],
      "the header row has no column, or several, for order_id, user_id, order_timestamp, order_value, product_id, quantity, price_per_unit: name it with --map. It has a, b. No order was imported",
    ],
    [
      csvOf([]),
      ["--map", "user_id=Customer"],
      "the header row has no column, or several, for user_id: name it with --map. It has order_id, user_id, order_timestamp, order_value, product_id, quantity, price_per_unit, shipping_address. No order was imported",
    ],
    [`order_id,${csvOf([])}`, [], expect.stringContaining("the header row has no column, or several, for order_id")],
    ["\n\n", [], "the file has no header row. No order was imported"],
    ["\xff\xfeo\0r\0", [], "the file is UTF-16: convert it to UTF-8. No order was imported"],
  ])("the file %j with %j is one sentence", async (content, map, problem) => {
    const file = fileOf("a.csv", Buffer.from(content, "latin1"));
    const { exitCode, problems } = await runJson([file, "--dry-run", ...map]);
    expect([exitCode, problems.length]).toEqual([1, 1]);
    expect(problems[0]?.slice(file.length + 2)).toEqual(problem);
  });

  test.each(['5,"U', '5,U"1"', '5,"U"1'])(
    "orders before a quote that is wrong are sent, and the line is named: %s",
    async (row) => {
      const { queue, env } = await prepare();
      const messages = generated(20);
      const text = csvOf(messages);
      const line = text.split("\n").length;
      const file = fileOf("a.csv", `${text}${row},2024\n6,U1,x\n`);
      const { exitCode, json, problems } = await runJson([file], { env });
      // Not the last one: the row may be another item of it.
      expect([exitCode, json.sent, (await bodiesIn(queue)).length]).toEqual([1, 19, 19]);
      expect(problems).toEqual([
        expect.stringContaining(`: the row that begins in line ${line} is not CSV: a quote is not closed`),
      ]);
    },
  );
});

describe("--dry-run", () => {
  test("counts copies within all files once, needs no queue, and reports each file and all", async () => {
    const messages = generated(200);
    const text = messages.map(({ body }) => body).join("\n");
    const files = [
      fileOf("a.jsonl", text),
      fileOf("b.csv", csvOf(messages)),
      fileOf("c.jsonl.gz", gzipSync(`${text}\nx`)),
    ];
    const growth = growthOf(messages);
    const none = { orders: 0, revenue: 0, counted: 0, corrected: 0 };
    const days = messages.map(({ day }) => day).sort();
    const env = { SQS_QUEUE_URL: "http://127.0.0.1:1/0/q" };
    expect((await runJson([...files, "--dry-run"], { env })).json).toEqual({
      sent: 0,
      ...growth,
      rejected: 1,
      duplicates: 400,
      oldest: days[0],
      files: [
        { file: files[0], ...growth, rejected: 0, duplicates: 0 },
        { file: files[1], ...none, rejected: 0, duplicates: 200 },
        { file: files[2], ...none, rejected: 1, duplicates: 200 },
      ],
    });
    const { stdout } = await run([...files, "--dry-run"], { env });
    const orders = `${growth.orders} (${growth.counted} counted, ${growth.corrected} corrected)`;
    expect(stdout).toMatch(/^Read 600 orders in \d+\.\d s \([\d,]+ orders\/s\)\nThe totals would grow by at most:\n/);
    expect(stdout).toContain(`\n  orders      ${orders}\n`);
    expect(stdout).toContain("\n  rejected    1\n  duplicates  400\n");
    expect(stdout).toContain(`\n  ${files[2]}: 0 orders, 0.00; 1 rejected, 200 duplicates\n`);
    expect(stdout).toMatch(new RegExp(`\nThe oldest order is of ${days[0]}, [\\d,]+ days ago\\.\n$`));
  });

  test("reads 200,000 lines in flat memory", async () => {
    const lines = generated(1_000).map(({ body }) => body);
    const file = fileOf("a.jsonl", "");
    const writer = Bun.file(file).writer();
    for (let copy = 0; copy < 200; copy++) {
      for (const line of lines) writer.write(`${line.replace('"O-', `"${copy}-`)}\n`);
      await writer.flush();
    }
    await writer.end();
    const { child, ended } = start([file, "--dry-run", "--json"]);
    const peak = await peakOf(child);
    expect(JSON.parse((await ended).stdout)).toMatchObject({ orders: 200_000, duplicates: 0, rejected: 0 });
    // 75 MB of text. The ids are 40 MiB of it, and the command itself about 100 MiB.
    expect(peak).toBeLessThan(250);
  });
});

test("what was sent, the age of the oldest order and the marker window are printed", async () => {
  const { env } = await prepare();
  const today = dayOf(Date.now());
  const day = dayOf(Date.parse(today) - 40 * 24 * 3600 * 1000);
  const file = fileOf("a.jsonl", `${body()}\n${body()}`.replaceAll("2024-12-13", day));
  const { exitCode, stdout, stderr } = await run([file], { env });
  expect([exitCode, stderr]).toEqual([0, expect.stringContaining(`Sending to ${env.SQS_QUEUE_URL}: ${file}\n`)]);
  expect(stdout.replace(/\d+\.\d s \(\d+/, "T s (N")).toBe(`Sent 2 orders in T s (N orders/s)
The totals grow by at most:
  orders      2 (2 counted, 0 corrected)
  revenue     20.00
  rejected    0
The oldest order is of ${day}, 40 days ago. Sent again within 19 days, the orders are duplicates; later they count twice
`);
});

test("the program counts what --dry-run says, once, however often the file is sent", async () => {
  const { queue, env } = await prepare();
  const messages = generated(400);
  const file = fileOf("orders.csv", csvOf([...messages, ...messages.slice(0, 50)]));
  const { json } = await runJson([file, "--dry-run"]);
  const program = await startProgram({ ...env, DATA_DIR: temporaryFolder() });
  const sent = async () => (await runJson([file], { env })).json.sent;
  expect([await sent(), await sent()]).toEqual([450, 450]);
  await waitFor("the orders", async () => (await isEmpty(queue)) && (await program.get("/stats/global")).ok, 60_000);
  const { total_orders: orders, total_revenue: revenue } = (await (
    await program.get("/stats/global")
  ).json()) as Record<string, number>;
  program.kill("SIGTERM");
  await program.exited;
  expect({ orders, revenue }).toEqual({ orders: json.orders, revenue: json.revenue });
  expect([json.orders, json.duplicates]).toEqual([400, 50]);
});

describe("wrong input", () => {
  test("every file that cannot be read is named before anything is sent", async () => {
    const { queue, env } = await prepare();
    const folder = join(temporaryFolder(), "orders.csv");
    mkdirSync(folder);
    const [good, unnamed] = [fileOf("a.jsonl", body()), fileOf("orders.txt", body())];
    const { exitCode, stdout, stderr } = await run([good, "/missing.jsonl", folder, unnamed], { env });
    expect([exitCode, stdout]).toEqual([1, ""]);
    expect(stderr.trimEnd().split("\n")).toEqual([
      "Cannot read /missing.jsonl: ENOENT: no such file or directory, stat '/missing.jsonl'",
      `${folder} is a directory: name the files in it`,
      `${unnamed} has no known extension: add --format jsonl or --format csv`,
    ]);
    expect(await bodiesIn(queue)).toEqual([]);
  });

  test.each([
    [["a.csv", "--map", "order_id"], '--map must be NAME=TEXT: got "order_id"'],
    [["a.csv", "--map", "id=a,user_id=b"], "--map: there is no field id, only order_id, user_id, "],
    [["a.csv", "--format", "xml"], '--format must be one of jsonl, csv: got "xml"'],
  ])("%j is wrong usage", async (args, problem) => {
    const { exitCode, stderr } = await run(args.map((arg) => (arg === "a.csv" ? fileOf(arg, csvOf([])) : arg)));
    expect([exitCode, stderr]).toEqual([2, expect.stringContaining(problem)]);
  });

  test("a gzip file that is cut off: its complete lines are sent, then the next file", async () => {
    const { queue, env } = await prepare();
    const text = generated(2_000)
      .map(({ body }) => body)
      .join("\n");
    const cut = fileOf("a.jsonl.gz", gzipSync(text).subarray(0, 60_000));
    const { exitCode, json, problems } = await runJson([cut, fileOf("b.jsonl", body())], { env });
    const [first, second] = json.files;
    expect([exitCode, second.orders, first.orders > 100]).toEqual([1, 1, true]);
    expect(problems).toEqual([
      `${cut}: the gzip data is damaged or cut off: unexpected end of file. No order that begins after line ${first.orders} was imported`,
    ]);
    expect((await bodiesIn(queue)).length).toBe(first.orders + 1);
  });
});

describe("an import that ends early", () => {
  const manyLines = (count: number) =>
    `${generated(count)
      .map(({ body }) => body)
      .join("\n")}\n`;

  test("--limit stops it, and says where", async () => {
    const { queue, env } = await prepare();
    const file = fileOf("a.jsonl", `x\n${manyLines(200)}`);
    const { stdout } = await run([file, "--limit", "101"], { env });
    expect(stdout).toContain(
      `\nStopped after line 102 of ${file}: run the same command again, and what was sent before is a duplicate\n`,
    );
    expect((await bodiesIn(queue)).length).toBe(101);
  });

  test("a batch that fails ends it, says up to which line all is sent, and the next run sends the rest", async () => {
    const refusal = { __type: "com.amazonaws.sqs#AccessDeniedException", message: "no more today" };
    let sends = 0;
    // The second round has batches 9 to 16.
    await using proxy = startSendProxy(emulator, () =>
      ++sends === 12 ? Response.json(refusal, { status: 400 }) : undefined,
    );
    const { queue, env } = await prepare(proxy.url);
    const file = fileOf("a.jsonl", manyLines(300));
    const { exitCode, json, problems } = await runJson([file], { env });
    expect([exitCode, json.sent, json.uncertain, json.stopped]).toEqual([1, 150, 10, { file, line: 80 }]);
    expect(problems).toEqual([
      expect.stringMatching(/^Cannot send: .*no more today\. Up to 10 more orders may be in the queue$/),
    ]);
    expect((await runJson([file], { env })).json.sent).toBe(300);
    expect(new Set(await bodiesIn(queue)).size).toBe(300);
  });

  test("nothing is read while the queue does not respond, and Ctrl-C waits for the batches in flight", async () => {
    const held = Promise.withResolvers<undefined>();
    let sends = 0;
    await using proxy = startSendProxy(emulator, () => {
      sends++;
      return held.promise;
    });
    const { queue, env } = await prepare(proxy.url);
    const file = fileOf("a.jsonl", manyLines(1_000).repeat(100));
    const { child, ended } = start([file, "--json"], { env });
    const readBytes = () => Number(/rchar: (\d+)/.exec(readFileSync(`/proc/${child.pid}/io`, "utf8"))?.[1]);
    await waitFor("all batches of a round", () => sends === 8);
    const before = readBytes();
    child.kill("SIGINT");
    expect(readBytes() - before).toBeLessThan(1024 * 1024);
    held.resolve(undefined);
    const { exitCode, stdout } = await ended;
    expect([exitCode, JSON.parse(stdout)]).toEqual([
      130,
      expect.objectContaining({ sent: 80, stopped: { file, line: 80 } }),
    ]);
    expect((await bodiesIn(queue)).length).toBe(80);
  });

  test("Ctrl-C ends one that waits for standard input", async () => {
    const { env } = await prepare();
    const command = [process.execPath, join(ROOT, "scripts/import.ts"), "-", "--format", "jsonl"];
    await using terminal = startOnTerminal(command, env);
    await waitFor("the start", () => terminal.output().includes("Sending to"));
    terminal.type("\x03");
    expect(await terminal.child.exited).toBe(130);
    expect(screenOf(terminal.output()).join("\n")).toContain("Stopped after line 0 of -: ");
  });
});

test("--rate limits the orders per second", async () => {
  const { env } = await prepare();
  const file = fileOf(
    "a.jsonl",
    generated(21)
      .map(({ body }) => body)
      .join("\n"),
  );
  const { stdout } = await run([file, "--rate", "40", "--json"], { env });
  const { sent, seconds } = JSON.parse(stdout);
  // The last of them is due half a second after the first.
  expect([sent, seconds >= 0.49]).toEqual([21, true]);
});
