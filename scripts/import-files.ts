/** Reads files in constant memory, plain or gzip, and writes what is rejected to another. */

import { isUtf8 } from "node:buffer";
import { createReadStream, fstatSync, openSync, writeFileSync } from "node:fs";
import { addAbortSignal, pipeline } from "node:stream";
import { createGunzip } from "node:zlib";
import type { OrderError } from "../consumer/order.ts";
import { messageOf } from "../errors.ts";
import { formatNumber, pluralize, printable } from "../text.ts";
import { shorten } from "./dead-letters.ts";

export interface FileOrder {
  /** The first line of the order, from 1. */
  line: number;
  body: string;
  /** Why it must not be sent, whatever the body is. */
  problem?: Problem;
}

export interface Problem {
  reason: string;
  errors: OrderError[];
}

/** An order of 1 MiB whose every character is escaped, in a line of `redrive file`. A longer line is not kept in memory. */
export const MAX_LINE_BYTES = 8 * 1024 * 1024;

type Chunks = AsyncIterable<Uint8Array>;

/**
 * Reads a file, no faster than the chunks are consumed. `onRead` is called with the size of each chunk of the file.
 *
 * @param path `-` is standard input
 * @returns the chunks of a UTF-8 text, decompressed, without byte order mark
 * @throws the error of the file, or any error once `signal` has aborted
 */
export async function* readText(path: string, signal: AbortSignal, onRead: (bytes: number) => void) {
  async function* read() {
    for await (const chunk of addAbortSignal(signal, path === "-" ? process.stdin : createReadStream(path))) {
      onRead(chunk.length);
      yield chunk;
    }
  }
  const file = await peek(read());
  // Several gzip files in one are decompressed one after the other.
  const isGzip = file.head.startsWith("1f8b");
  const { head, chunks } = isGzip ? await peek(gunzip(file.chunks)) : file;
  if (/^(fffe|feff)/.test(head)) throw new Error("the file is UTF-16: convert it to UTF-8");
  let skip = head.startsWith("efbbbf") ? 3 : 0;
  for await (const chunk of chunks) {
    yield chunk.subarray(skip);
    skip = 0;
  }
}

async function* gunzip(chunks: Chunks): AsyncGenerator<Buffer> {
  try {
    // The errors of the pipeline are thrown by its last stream.
    yield* pipeline(chunks, createGunzip(), () => {});
  } catch (cause) {
    throw new Error(`the gzip data is damaged or cut off: ${messageOf(cause)}`, { cause });
  }
}

/** @returns the first bytes in hexadecimal, at least three if there are so many, and all chunks */
async function peek(source: Chunks) {
  const iterator = source[Symbol.asyncIterator]();
  let first = Buffer.alloc(0);
  for (let next = await iterator.next(); !next.done; next = await iterator.next()) {
    first = Buffer.concat([first, next.value]);
    if (first.length >= 3) break;
  }
  async function* all() {
    yield first;
    yield* { [Symbol.asyncIterator]: () => iterator };
  }
  return { head: first.toString("hex", 0, 3), chunks: all() };
}

/** @returns the lines that are not blank */
export async function* readJsonLines(chunks: Chunks): AsyncGenerator<FileOrder> {
  let [line, bytes, parts] = [0, 0, [] as Uint8Array[]];
  function add(part: Uint8Array) {
    bytes += part.length;
    if (bytes <= MAX_LINE_BYTES) parts.push(part);
  }
  function takeLine(): FileOrder {
    const [text, size] = [Buffer.concat(parts), bytes];
    [line, bytes, parts] = [line + 1, 0, []];
    const body = text.toString().trim();
    // The start is enough to find the line in the file.
    if (size > MAX_LINE_BYTES) return { line, body: body.slice(0, 1000), problem: tooLarge(size, MAX_LINE_BYTES) };
    const problem = { reason: "invalid_json", errors: [{ path: "", message: "must be UTF-8" }] };
    return isUtf8(text) ? { line, body } : { line, body, problem };
  }
  for await (const chunk of chunks) {
    let start = 0;
    for (let end = chunk.indexOf(10); end !== -1; end = chunk.indexOf(10, start)) {
      add(chunk.subarray(start, end));
      start = end + 1;
      const order = takeLine();
      if (order.body) yield order;
    }
    add(chunk.subarray(start));
  }
  const last = takeLine();
  if (last.body) yield last;
}

export function tooLarge(bytes: number, max: number): Problem {
  const message = `must be at most ${formatNumber(max)} bytes, is ${formatNumber(bytes)}`;
  return { reason: "too_large", errors: [{ path: "", message }] };
}

/** Rejects that are shown if there is no file for them. */
const MAX_SHOWN = 5;

/** Counts rejects and writes them to a file, if there is one. @throws an Error if it has content: it may be what is imported */
export function openRejects(path: string | undefined) {
  const file = path === undefined ? undefined : openSync(path, "a", 0o600);
  if (file !== undefined && fstatSync(file).size > 0)
    throw new Error(`${path} is not empty: give --rejects the name of a new file`);
  const reasons: Record<string, number> = {};
  const shown: string[] = [];

  function add(reject: { file: string; line: number; body: string } & Problem) {
    const { reason, errors } = reject;
    reasons[reason] = (reasons[reason] ?? 0) + 1;
    const [{ path, message } = { path: "", message: "" }] = errors;
    if (shown.length < MAX_SHOWN)
      shown.push(`  ${reject.file}:${reject.line}: ${shorten(`${path || "/"}: ${message}`)}`);
    if (file !== undefined) writeFileSync(file, `${printable(JSON.stringify(reject))}\n`);
  }

  /** @returns the problems to print */
  function summary(count: number): string[] {
    if (count === 0) return [];
    const each = Object.entries(reasons).map(([reason, count]) => `${formatNumber(count)} ${reason}`);
    const head = `Rejected: ${pluralize(count, "order")} (${each.join(", ")})`;
    if (path !== undefined) return [`${head}. See ${path}`];
    const rest = count - shown.length;
    return [`${head}:`, ...shown, ...(rest > 0 ? [`  ${formatNumber(rest)} more: --rejects FILE keeps them`] : [])];
  }

  return { add, summary };
}
