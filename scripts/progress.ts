/** Progress of a command on stderr, and the format of amounts and rates in what commands print. */

import { SingleBar } from "cli-progress";
import { formatNumber, pluralize } from "../text.ts";

/** A run that is not on a terminal prints at least this often, so that a slow one is not taken for a hung one. */
const MAX_SILENCE_MS = 5_000;

/** @returns "1,204.50" for 120450 cents */
export const formatCents = (cents: number) => (cents / 100).toLocaleString("en-US", { minimumFractionDigits: 2 });

/** @returns the rate per second. At least a millisecond counts, so that the rate is finite from the start. */
export const formatRate = (count: number, ms: number) => formatNumber(Math.round(count / Math.max(ms / 1000, 0.001)));

/**
 * Shows a bar if stderr is a terminal. Otherwise, and with a total of Infinity for one that is unknown, calls
 * `printLine` at every tenth of the total and every five seconds.
 *
 * @returns `start(total, unit)`, which returns a function to call with the number done so far, and `stop()`, which removes the bar
 */
export function createProgress(printLine: (line: string) => unknown) {
  const layout = { barsize: 25, etaBuffer: 100, clearOnComplete: true, format: "{bar} {text} | ETA {eta_formatted}" };
  // Left as they are, cursor and line wrap need no reset: a second Ctrl-C ends the process at once.
  const bar = new SingleBar({ ...layout, linewrap: true });
  const isTerminal = process.stderr.isTTY && process.env.TERM !== "dumb";

  function start(total: number, unit: string, units?: string) {
    const startedMs = performance.now();
    let printed = { done: 0, atMs: startedMs };
    const known = Number.isFinite(total);
    bar.stop();
    if (isTerminal && known) bar.start(total, 0, { text: unit });
    return (done: number) => {
      const atMs = performance.now();
      // More may be done than there was at the start: messages arrive, orders are counted.
      const all = Math.max(total, done);
      const percent = Math.floor((done / (all || 1)) * 100);
      const rate = formatRate(done, atMs - startedMs);
      const part = known
        ? `${formatNumber(done)} of ${pluralize(all, unit, units)} (${percent} %)`
        : pluralize(done, unit, units);
      const text = `${part}${rate === "0" ? "" : `, ${rate}/s`}`;
      if (isTerminal && known) return bar.update(done, { text });
      if (done - printed.done < Math.max(1, total / 10) && atMs - printed.atMs < MAX_SILENCE_MS) return;
      printed = { done, atMs };
      printLine(text);
    };
  }

  return { start, stop: () => bar.stop() };
}
