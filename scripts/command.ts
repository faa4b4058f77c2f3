/** The one look of the commands: what they can be told, their help, progress, results, errors and Ctrl-C. */

import { once } from "node:events";
import { parseArgs, styleText } from "node:util";
import { SingleBar } from "cli-progress";
import { ConfigError } from "../config.ts";
import { reasonOf } from "../queue/queue.ts";

/** A flag, unless it takes a number, from `min` (1) to `max` (a billion), or a word of a list. */
interface Option {
  about: string;
  takes?: "integer" | "decimal" | readonly string[];
  min?: number;
  max?: number;
  fallback?: number;
  /** With commas between them, or repeated. */
  many?: true;
}
type One<O> = O extends { takes: readonly (infer Word)[] } ? Word : number;
type Single<O> = O extends { fallback: number } ? number : O extends { takes: unknown } ? One<O> | undefined : boolean;
type Value<O> = O extends { many: true } ? One<O>[] | undefined : Single<O>;
export type Values<Options> = { [Name in keyof Options]: Value<Options[Name]> } & { json: boolean };

interface Command<Options> {
  about: string;
  usage: string;
  /** What may stand before the options, one of them or `several`: a word, what it takes behind it, and what it is for. */
  words?: Record<string, string>;
  several?: true;
  options: Options & Record<string, Option>;
  notes: string;
  /** Where they say more than `EXIT_CODES`. */
  exitCodes?: Record<number, string>;
  examples: string[];
  /** It ends by `signal`. Others are left where they are on Ctrl-C, and end with the process. */
  settles?: true;
  /** Answers what is wrong with values that may be right each by itself. */
  check?(values: Values<Options>): string[];
  run(values: Values<Options>, context: Context): Promise<Result>;
}
export interface Context {
  words: string[];
  env: Record<string, string | undefined>;
  signal: AbortSignal;
  /** Answers how to tell how many of `total` are done. */
  progress(total: number, what: string): (done: number) => void;
  print(line: string): Promise<void>;
  note(line: string): Promise<void>;
}
/** `json` is for --json, `text` for a person. Problems go to stderr, and make the exit code 1 where none is given. */
export type Result = { json?: object; text?: string; problems?: string[]; exitCode?: number };

const EXIT_CODES = { 0: "done", 1: "failed", 2: "wrong usage", 130: "stopped by Ctrl-C" };
const COMMON = { json: { about: "JSON on stdout and nothing else there" }, help: { about: "this text" } };
/** The longest silence on a slow run. */
const PROGRESS_PAUSE_MS = 5_000;

/** Makes a command of a description. It answers its exit code, and never rejects. */
export function createCommand<const Options>(command: Command<Options>) {
  return async (args: string[], env: Context["env"]): Promise<number> => {
    const signal = watchInterrupts();
    const { values, words, problems } = readArguments(command, args);
    problems.push(...(command.check?.(values) ?? []));
    if (values.help) return await print(helpOf(command)).then(() => 0);
    if (problems.length > 0) return await fail(problems, 2);
    const { start: progress, stop } = createProgress();
    signal.addEventListener("abort", stop);
    const left = command.settles ? [] : [once(signal, "abort").then((): Result => ({}))];
    try {
      const running = command.run(values, { words, env, signal, progress, print, note });
      const { json, text, problems = [], exitCode } = await Promise.race([running, ...left]).finally(stop);
      const shown = values.json ? JSON.stringify(json) : text;
      if (shown) await print(shown);
      if (problems.length > 0) return await fail(problems, exitCode);
      return exitCode ?? (signal.aborted ? 130 : 0);
    } catch (error) {
      return await fail(error instanceof ConfigError ? error.problems : [reasonOf(error)]);
    }
  };
}

/** Resolves when it is written, or nobody reads any more. */
const writer = (stream: NodeJS.WriteStream) => (line: string) =>
  new Promise<void>((resolve) => stream.write(`${line}\n`, () => resolve()));
const [print, note] = [writer(process.stdout), writer(process.stderr)];

async function fail(problems: string[], exitCode = 1): Promise<number> {
  await note(styleText("red", problems.join("\n"), { stream: process.stderr }));
  return exitCode;
}

function watchInterrupts(): AbortSignal {
  const interrupt = new AbortController();
  const abort = () => interrupt.abort();
  // Once: a second Ctrl-C meets no listener and ends the process.
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.once(signal, abort);
  // `| head` has read enough.
  for (const stream of [process.stdout, process.stderr]) stream.on("error", abort);
  return interrupt.signal;
}

function helpOf({ about, usage, words, options, notes, exitCodes, examples }: Command<object>): string {
  const rows = { ...words };
  for (const [name, { about, takes, many, fallback }] of Object.entries<Option>({ ...options, ...COMMON })) {
    const value = takes ? ` ${Array.isArray(takes) ? "WORD" : "N"}${many ? ",…" : ""}` : "";
    rows[`--${name}${value}`] = fallback === undefined ? about : `${about} (${grouped(fallback)})`;
  }
  const lines = Object.entries(rows).map(([name, about]) => `  ${name.padEnd(18)}${about}`);
  const codes = Object.entries({ ...EXIT_CODES, ...exitCodes }).map(([code, meaning]) => `${code} ${meaning}`);
  const table = `Usage: ${usage}\n\n${lines.join("\n")}`;
  return `${about}\n\n${table}\n\n${notes}\n\nExit code: ${codes.join(", ")}.\n\nExamples:\n  ${examples.join("\n  ")}`;
}

/** Not by parseArgs' own strictness: it ends at the first problem, and all of them are named here. */
function readArguments({ words = {}, several, options }: Command<object>, args: string[]) {
  const known = Object.entries<Option>({ ...options, ...COMMON });
  const forms = known.map(([name, { takes }]) => {
    return [name, { type: takes ? "string" : "boolean", multiple: true, ...(name === "help" && { short: "h" }) }];
  });
  const { values: given, positionals } = parseArgs({ args, options: Object.fromEntries(forms), strict: false });
  const unknown = Object.keys(given).filter((name) => !known.some(([each]) => each === name));
  const problems = unknown.map((name) => `Unknown option ${name.length === 1 ? "-" : "--"}${name}: see --help`);
  const values = known.map(([name, option]) => [name, readValue(name, option, [given[name] ?? []].flat(), problems)]);
  const lines = Object.keys(words).map((line) => line.split(" "));
  const line = lines.find(([word]) => word === positionals[0]) ?? [];
  const isKnown = (word: string, at: number) => (several ? lines.flat().includes(word) : at < line.length);
  for (const [at, word] of positionals.entries())
    if (!isKnown(word, at)) problems.push(`Unexpected argument ${word}: see --help`);
  problems.push(...line.slice(positionals.length).map((what) => `${line[0]} needs ${what}`));
  return { values: Object.fromEntries(values), words: positionals, problems };
}

function readValue(name: string, option: Option, given: (string | boolean)[], problems: string[]) {
  const { takes, min = 1, max = 1_000_000_000, fallback, many } = option;
  if (!takes && given.some((text) => text !== true)) problems.push(`--${name} takes no value`);
  if (!takes || given.length === 0) return takes ? fallback : given.length > 0;
  const [form, kind] = takes === "decimal" ? [/^\d+(\.\d+)?$/, "a number"] : [/^\d+$/, "an integer"];
  const isNumber = (text: string) => form.test(text) && Number(text) >= min && Number(text) <= max;
  const isRight = (text: string) => (Array.isArray(takes) ? takes.includes(text) : isNumber(text));
  const must = Array.isArray(takes) ? `one of ${takes.join(", ")}` : `${kind} from ${min} to ${max}`;
  const texts = given.flatMap((text) => (text === true ? "" : many ? `${text}`.split(",") : `${text}`));
  for (const text of texts) if (!isRight(text)) problems.push(`--${name} must be ${must}: got "${text}"`);
  const read = Array.isArray(takes) ? texts : texts.map(Number);
  return many ? read : read.at(-1);
}

/** A bar where stderr is a terminal; elsewhere a line every tenth of the way, or every five seconds. */
function createProgress() {
  const look = { barsize: 25, etaBuffer: 100, clearOnComplete: true, format: "{bar} {words} | ETA {eta_formatted}" };
  // The cursor is not hidden, and wrapping not turned off: a second Ctrl-C leaves the terminal as it was.
  const bar = new SingleBar({ ...look, linewrap: true });
  const isTerminal = process.stderr.isTTY && process.env.TERM !== "dumb";
  function start(total: number, what: string) {
    const startedMs = performance.now();
    let shown = { done: 0, atMs: startedMs };
    bar.stop();
    if (isTerminal) bar.start(total, 0, { words: what });
    return (done: number) => {
      const atMs = performance.now();
      // What arrives meanwhile may come on top of the total.
      const percent = Math.min(100, Math.floor((done / (total || 1)) * 100));
      const rate = perSecond(done, atMs - startedMs);
      const words = `${grouped(done)} of ${grouped(total)} ${what} (${percent} %)${rate === "0" ? "" : `, ${rate}/s`}`;
      if (isTerminal) return bar.update(done, { words });
      if (done - shown.done < Math.max(1, total / 10) && atMs - shown.atMs < PROGRESS_PAUSE_MS) return;
      shown = { done, atMs };
      void note(words);
    };
  }
  return { start, stop: () => bar.stop() };
}

export const grouped = (number: number) => number.toLocaleString("en-US");
export const money = (cents: number) => (cents / 100).toLocaleString("en-US", { minimumFractionDigits: 2 });
/** Of the first moment it makes no infinity. */
export const perSecond = (count: number, ms: number) => grouped(Math.round(count / Math.max(ms / 1000, 0.001)));
