import pino from "pino";

/** A real log whose lines can be read back. */
export function logLines() {
  const lines: Record<string, unknown>[] = [];
  const log = pino(
    { level: "trace", base: null, timestamp: false },
    { write: (line: string) => void lines.push(JSON.parse(line)) },
  );
  /** The lines of one event, without the event's name and the level. */
  const events = (name: string) => lines.filter(({ event }) => event === name).map(({ event, level, ...rest }) => rest);
  return { log, lines, events };
}
