import pino, { type Logger } from "pino";
import type { Config } from "./config.ts";

export type Log = Logger;

/** JSON lines on stdout, one event a line; short readable lines where stdout is a terminal. */
export function createLog({ level, pretty }: Config["log"], bindings: Record<string, unknown> = {}): Log {
  // Synchronous: a line written just before a crash is not lost, and lines of all workers keep their order.
  const destination = pretty ? prettyStream() : pino.destination({ fd: 1, sync: true });
  const options = {
    level,
    base: null,
    timestamp: pino.stdTimeFunctions.isoTime,
    formatters: { level: (label: string) => ({ level: label }) },
    // Without this an error is logged as {}.
    serializers: { error: pino.stdSerializers.err },
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
      const words = [
        time.slice(11, 19),
        level.toUpperCase().padEnd(5),
        event,
        msg,
        ...details,
        error?.message ?? error,
      ];
      process.stdout.write(`${words.filter((word) => word !== undefined).join(" ")}\n`);
    },
  };
}
