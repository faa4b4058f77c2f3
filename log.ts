import pino, { type Logger } from "pino";
import type { Config } from "./config.ts";
import { printable } from "./text.ts";

export type Log = Logger;

/** Lines that wait for a slow reader of stdout, in each thread: about 1 MB. */
const MAX_WAITING_LINES = 5_000;

/**
 * @param bindings fields that are added to every line
 * @returns a logger that writes one event per line to stdout: as JSON, or as short text when stdout is a terminal
 */
export function createLog({ level, pretty }: Config["log"], bindings: Record<string, unknown> = {}): Log {
  const write = createLineWriter((lines) => log.warn({ event: "log_lines_dropped", lines }));
  const destination = pretty ? prettyStream(write) : { write };
  const options = {
    level,
    base: null,
    timestamp: pino.stdTimeFunctions.isoTime,
    formatters: { level: (label: string) => ({ level: label }) },
    // Without a serializer an Error is logged as {}.
    serializers: { error: pino.stdSerializers.err },
    // JSON lines end up on a terminal too, by `docker logs`. Escaped, they are the same JSON.
    hooks: { streamWrite: (line: string) => `${printable(line.trimEnd())}\n` },
  };
  const log: Log = pino(options, destination).child(bindings);
  return log;
}

/**
 * Writes lines to stdout. While the reader of a pipe keeps up, a line is written before `write` returns, so that a crash does not
 * lose it. When the reader stalls, lines wait, and are dropped beyond a limit: logging must never block the program. A terminal
 * and a file do block.
 *
 * @param onDropped is called with the number of lines dropped, when the reader has caught up
 */
function createLineWriter(onDropped: (lines: number) => void) {
  const stdout = Bun.stdout.writer();
  const waiting: string[] = [];
  let dropped = 0;

  async function flush() {
    try {
      // One at a time: a pipe takes up to 4 KiB at once or not at all, so that the lines of several threads do not mix.
      for (let line = waiting[0]; line !== undefined; line = waiting[0]) {
        const results = [stdout.write(line), stdout.flush()];
        if (results.some((result) => result instanceof Promise)) {
          // A worker must be able to end while its lines wait. This has an effect on pending writes only.
          stdout.unref();
          await Promise.all(results);
        }
        waiting.shift();
      }
    } catch {
      // EPIPE: nobody will read these lines.
      waiting.length = 0;
    }
    const lines = dropped;
    dropped = 0;
    if (lines > 0) onDropped(lines);
  }

  return (line: string) => {
    if (waiting.length === MAX_WAITING_LINES) dropped++;
    else if (waiting.push(line) === 1) void flush();
  };
}

function prettyStream(write: (line: string) => void) {
  return {
    write(line: string) {
      const { level, time, event, msg, error, ...fields } = JSON.parse(line);
      const details = Object.entries(fields).map(
        ([key, value]) =>
          `${key}=${typeof value === "object" || /\s/.test(`${value}`) ? JSON.stringify(value) : value}`,
      );
      const columns = [
        time.slice(11, 19),
        level.toUpperCase().padEnd(5),
        event,
        msg,
        ...details,
        error?.message ?? error,
      ];
      write(`${printable(columns.filter((column) => column !== undefined).join(" "))}\n`);
    },
  };
}
