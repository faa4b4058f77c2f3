/** What all commands share: options, help, results, exit codes and Ctrl-C. */

import { once } from "node:events";
import { type ParseArgsConfig, parseArgs, styleText } from "node:util";
import { ConfigError } from "../config.ts";
import { bypassProxyForLoopback } from "../loopback.ts";
import { describeQueueError } from "../queue/request.ts";
import { areSimilar, formatNumber, printable } from "../text.ts";
import { createProgress } from "./progress.ts";

interface Option {
  help: string;
  /** A pair is NAME=TEXT. An array lists the allowed values. Absent: a flag. */
  type?: "text" | "pair" | "integer" | "decimal" | readonly string[];
  /** Limits of a number, 1 and a billion where absent. */
  min?: number;
  max?: number;
  default?: number;
  /** Several values, separated by commas or each behind the option's name. A text with commas is used as a whole as well. */
  multiple?: true;
}
type One<O> = O extends { type: readonly (infer Word)[] }
  ? Word
  : O extends { type: "text" | "pair" }
    ? string
    : number;
type Single<O> = O extends { default: number } ? number : O extends { type: unknown } ? One<O> | undefined : boolean;
type Value<O> = O extends { multiple: true } ? One<O>[] | undefined : Single<O>;
/** The value of each option of a command. */
export type Values<Options> = { [Name in keyof Options]: Value<Options[Name]> } & { json: boolean };

interface Command<Options> {
  description: string;
  usage: string;
  /** Help for each positional. Absent: the command takes none. */
  positionals?: Record<string, string>;
  options: Options & Record<string, Option>;
  /** Printed below the options. */
  notes: string;
  examples: string[];
  /** On Ctrl-C, `run` finishes its work and returns a result. Without it, `run` is abandoned and the process exits. */
  finishesOnInterrupt?: true;
  run(values: Values<Options>, context: Context): Promise<CommandResult>;
}
export interface Context {
  positionals: string[];
  env: Record<string, string | undefined>;
  /** Aborts on Ctrl-C, and when the reader of the output is gone. */
  signal: AbortSignal;
  progress: ReturnType<typeof createProgress>["start"];
  print(...lines: string[]): Promise<void>;
  printToStderr(line: string): Promise<void>;
}
/** `json` is printed with --json, `lines` without. Problems go to stderr; the exit code is then 1 if none is given. */
export type CommandResult = { json?: object; lines?: string[]; problems?: string[]; exitCode?: number };
/** Arguments that the command cannot run with: exit code 2. */
export class UsageError extends ConfigError {}

const COMMON = { json: { help: "print JSON on stdout and nothing else" }, help: { help: "print this text" } };

/** @returns a function that runs the command and returns its exit code. It never rejects. */
export function createCommand<const Options>(command: Command<Options>) {
  return async (args: string[], env: Context["env"]): Promise<number> => {
    bypassProxyForLoopback();
    const signal = signalOfInterrupts();
    const { start: progress, stop: stopProgress } = createProgress(printToStderr);
    signal.addEventListener("abort", stopProgress);
    const interrupted = once(signal, "abort").then((): CommandResult => ({}));
    try {
      const { help, values, positionals } = parse(command, args);
      if (help) return await print(...helpOf(command).split("\n")).then(() => 0);
      const running = command.run(values, { positionals, env, signal, progress, print, printToStderr });
      const first = command.finishesOnInterrupt ? running : Promise.race([running, interrupted]);
      const { json, lines, problems = [], exitCode } = await first.finally(stopProgress);
      const output = values.json ? json && [JSON.stringify(json)] : lines;
      if (output) await print(...output);
      if (problems.length > 0) return await fail(problems, exitCode);
      return exitCode ?? (signal.aborted ? 130 : 0);
    } catch (error) {
      if (error instanceof ConfigError) return await fail(error.problems, error instanceof UsageError ? 2 : 1);
      return await fail([describeQueueError(error)]);
    }
  };
}

/** The promise resolves when the lines are written or the reader is gone. */
const writer =
  (stream: NodeJS.WriteStream, style = (text: string) => text) =>
  (...lines: string[]) =>
    new Promise<void>((resolve) => stream.write(`${style(lines.map(printable).join("\n"))}\n`, () => resolve()));
const [print, printToStderr] = [writer(process.stdout), writer(process.stderr)];
const printProblems = writer(process.stderr, (text) => styleText("red", text, { stream: process.stderr }));

async function fail(problems: string[], exitCode = 1): Promise<number> {
  await printProblems(...problems);
  return exitCode;
}

function signalOfInterrupts(): AbortSignal {
  const controller = new AbortController();
  const abort = () => controller.abort();
  // Once: a second Ctrl-C finds no listener and ends the process.
  for (const name of ["SIGINT", "SIGTERM", "SIGHUP"]) process.once(name, abort);
  // EPIPE: `| head` has exited.
  for (const stream of [process.stdout, process.stderr]) stream.on("error", abort);
  return controller.signal;
}

function helpOf({ description, usage, positionals, options, notes, examples }: Command<object>): string {
  const rows = { ...positionals };
  for (const [name, { help, type, multiple, default: value }] of Object.entries<Option>({ ...options, ...COMMON })) {
    const placeholder = Array.isArray(type) ? " WORD" : ({ text: " TEXT", pair: " NAME=TEXT" }[`${type}`] ?? " N");
    const form = `--${name}${type ? placeholder : ""}${multiple ? ",…" : ""}`;
    rows[form] = value === undefined ? help : `${help} (${formatNumber(value)})`;
  }
  const table = Object.entries(rows).map(([form, help]) => `  ${form.padEnd(18)}${help}`);
  const exitCodes = "Exit code: 0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C.";
  const sections = [description, `Usage: ${usage}`, table.join("\n"), `${notes}\n\n${exitCodes}`, "Examples:"];
  return `${sections.join("\n\n")}\n  ${examples.join("\n  ")}`;
}

/** @throws UsageError with the first problem of form, such as an unknown option, or with all problems of values */
function parse<Options>({ positionals: allowed, options }: Command<Options>, args: string[]) {
  const all = Object.entries<Option>({ ...options, ...COMMON });
  const forms = all.map(([name, { type }]) => {
    return [name, { type: type ? "string" : "boolean", multiple: true, ...(name === "help" && { short: "h" }) }];
  });
  const config = { args, options: Object.fromEntries(forms), allowPositionals: allowed !== undefined };
  const { values: given, positionals } = parseForm(config);
  const problems: string[] = [];
  const values = all.map(([name, option]) => [name, readValue(name, option, given[name] ?? [], problems)]);
  const help = given.help !== undefined;
  if (problems.length > 0 && !help) throw new UsageError(problems);
  return { help, values: Object.fromEntries(values) as Values<Options>, positionals };
}

function parseForm(config: ParseArgsConfig) {
  const unknown = findUnknownOption(config);
  if (unknown) throw new UsageError([unknown]);
  try {
    const { values, positionals } = parseArgs(config);
    return { values: values as Record<string, string[] | undefined>, positionals };
  } catch (error) {
    // The first sentence is the problem. A value that begins with "-" is called ambiguous: it may be the next option.
    const [problem = ""] = (error as Error).message.split(/\. |\.\n/);
    throw new UsageError([`${problem.replace(/( <value>)?' argument .+$/, "' needs a value")}: see --help`]);
  }
}

/** @returns the problem of the first unknown option. For `3 --unknown`, `parseArgs` reports only an unexpected argument 3 */
function findUnknownOption({ args, options = {} }: ParseArgsConfig): string | undefined {
  const { tokens } = parseArgs({ args, options, strict: false, tokens: true });
  for (const token of tokens) {
    if (token.kind !== "option" || Object.hasOwn(options, token.name)) continue;
    const nearest = Object.keys(options).find((name) => name.startsWith(token.name) || areSimilar(name, token.name));
    return `Unknown option '${token.rawName}': ${nearest ? `did you mean --${nearest}?` : "see --help"}`;
  }
}

function readValue(name: string, option: Option, given: string[], problems: string[]) {
  const { type, multiple } = option;
  if (!type) return given.length > 0;
  if (given.length === 0) return option.default;
  const split = (text: string) => {
    if (type === "pair") return text.split(/,(?=\w+=)/);
    return type === "text" && text.includes(",") ? [text, ...text.split(",")] : text.split(",");
  };
  const texts = multiple ? given.flatMap(split) : given;
  for (const text of texts) {
    const expected = findMismatch(text, option);
    if (expected) problems.push(`--${name} must be ${expected}: got "${text}"`);
  }
  const values = type === "integer" || type === "decimal" ? texts.map(Number) : texts;
  return multiple ? values : values.at(-1);
}

/** @returns what the value of an option must be, undefined if it is */
function findMismatch(text: string, { type, min = 1, max = 1_000_000_000 }: Option): string | undefined {
  if (type === "text") return text === "" ? "a non-empty text" : undefined;
  if (type === "pair") return /^\w+=./.test(text) ? undefined : "NAME=TEXT";
  if (typeof type === "object") return type.includes(text) ? undefined : `one of ${type.join(", ")}`;
  const [noun, form] = type === "integer" ? ["an integer", /^\d+$/] : ["a number", /^\d+(\.\d+)?$/];
  const isValid = form.test(text) && Number(text) >= min && Number(text) <= max;
  return isValid ? undefined : `${noun} from ${min} to ${max}`;
}
