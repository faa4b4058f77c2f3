import { expect, test } from "bun:test";
import { join } from "node:path";
import { eventsOf } from "./support/program.ts";
import { startOnTerminal } from "./support/terminal.ts";

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
