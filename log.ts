import pino, { type Logger } from "pino";
import type { Config } from "./config.ts";
import { printable } from "./text.ts";

export type Log = Logger;

/**
 * @param bindings fields that are added to every line
 * @returns a logger that writes one event per line to stdout: as JSON, or as short text when stdout is a terminal
 */
export function createLog({ level, pretty }: Config["log"], bindings: Record<string, unknown> = {}): Log {
  // Synchronous, so that a line written just before a crash is not lost and the lines of all workers keep their order.
  const destination = pretty ? prettyStream() : pino.destination({ fd: 1, sync: true });
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
  return pino(options, destination).child(bindings);
}

function prettyStream() {
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
      process.stdout.write(`${printable(columns.filter((column) => column !== undefined).join(" "))}\n`);
    },
  };
}
