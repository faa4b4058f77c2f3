import { expect, test } from "bun:test";
import { join } from "node:path";
import { eventsOf } from "./support/program.ts";
import { startOnTerminal } from "./support/terminal.ts";

/** Runs a program that writes to its log, with `reader` behind it in a pipe. */
function pipeTo(reader: string, source: string) {
  const program = `import { createLog } from "./log.ts"; const log = createLog({ level: "info", pretty: false }); ${source}`;
  return Bun.spawnSync(["bash", "-c", `"$0" -e "$1" | ${reader}; exit \${PIPESTATUS[0]}`, process.execPath, program], {
    cwd: `${import.meta.dir}/..`,
  });
}

test("an error is logged with its message and its cause, one JSON object a line", async () => {
  const source = `import { createLog } from "./log.ts";
    const error = new Error("outer", { cause: new Error("inner") });
    createLog({ level: "info", pretty: false }, { worker: 3 }).error({ event: "failed", error });`;
  const child = Bun.spawn([process.execPath, "-e", source], { cwd: `${import.meta.dir}/..`, stdout: "pipe" });
  const [line] = eventsOf(await new Response(child.stdout).text());
  expect(line).toMatchObject({ level: "error", event: "failed", worker: 3 });
  expect(JSON.stringify(line?.error)).toContain('"message":"outer');
  expect(JSON.stringify(line?.error)).toContain("inner");
});

/** Sequences that clear a screen, set its title or turn text around, in 7 and 8 bits; half a surrogate pair; harmless text. */
const HOSTILE = "\x1b[2J\x1b]0;title\x07 \x9b31m \x7f \u202e\u2066 \u2028 \ud83d \u{e0041} é 😀 \r\nnext\tline";
/** Everything that a terminal must not be sent, but for the line ends. */
const CONTROL = /(?![\r\n])[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/u;
const ROOT = join(import.meta.dir, "..");

/** Logs the text as a field, as a value with an object, as a message and as an error. */
const logging = (pretty: boolean) => `import { createLog } from "./log.ts";
  const text = ${JSON.stringify(HOSTILE)};
  const log = createLog({ level: "info", pretty: ${pretty} });
  log.warn({ event: "order_rejected", order_id: text, plain: text.replace(/\\s/g, ""), list: [text], msg: text });
  log.error({ event: "failed", error: new Error(text) });`;

test("what others sent does not control the terminal: it is escaped in one line each", async () => {
  await using terminal = startOnTerminal([process.execPath, "-e", logging(true)], {});
  expect(await terminal.child.exited).toBe(0);
  expect(terminal.output()).not.toMatch(CONTROL);
  const lines = terminal.output().trimEnd().split("\r\n");
  expect(lines).toHaveLength(2);
  expect(lines[0]).toContain(
    "\\u001b[2J\\u001b]0;title\\u0007 \\u009b31m \\u007f \\u202e\\u2066 \\u2028 \\ud83d \\udb40\\udc41 é 😀  next line",
  );
  expect(lines[1]).toContain("ERROR failed \\u001b[2J");
});

test("JSON lines contain no control characters, which `docker logs` would show, and have the same value", async () => {
  const child = Bun.spawn([process.execPath, "-e", logging(false)], { cwd: ROOT, stdout: "pipe" });
  const text = await new Response(child.stdout).text();
  expect(text).not.toMatch(CONTROL);
  const [line, failed] = eventsOf(text);
  expect(line).toMatchObject({ order_id: HOSTILE, plain: HOSTILE.replace(/\s/g, ""), list: [HOSTILE], msg: HOSTILE });
  expect(failed?.error).toMatchObject({ message: HOSTILE });
});

test("a line written before a crash is not lost", () => {
  const { stdout, exitCode } = pipeTo("cat", `log.info({ event: "last" }); throw new Error("crash");`);
  expect(eventsOf(`${stdout}`)).toMatchObject([{ event: "last" }]);
  expect(exitCode).toBe(1);
});

test("a reader that stalls neither blocks nor fills the memory, and gets the number of lines dropped", () => {
  const source = `const before = performance.now();
    for (let line = 0; line < 50_000; line++) log.info({ event: "line", line });
    log.info({ event: "written", ms: performance.now() - before });
    setTimeout(() => { log.info({ event: "last" }); process.exit(0); }, 4_000);`;
  const { stdout, exitCode } = pipeTo("(sleep 2; cat)", source);
  const events = eventsOf(`${stdout}`);
  const lines = events.filter(({ event }) => event === "line");
  const [dropped, last] = events.slice(lines.length);
  expect(lines.map(({ line }) => line)).toEqual([...lines.keys()]);
  expect(lines.length).toBeWithin(5_000, 49_000);
  expect(dropped).toMatchObject({ level: "warn", event: "log_lines_dropped", lines: 50_001 - lines.length });
  expect(last).toMatchObject({ event: "last" });
  expect(exitCode).toBe(0);
});

test.each([100, 100_000])("a reader that goes away does not end the program, with lines of %d characters", (length) => {
  const source = `for (let line = 0; line < 200; line++) { log.info({ text: "x".repeat(${length}) }); await Bun.sleep(1); }
    process.exit(7);`;
  expect(pipeTo("head -c 10", source).exitCode).toBe(7);
});
