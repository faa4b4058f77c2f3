/** @returns the offset from UTC at a time in ms since the epoch, in ms */
export type OffsetAt = (ms: number) => number;

/** A time during which the offset does not change. */
interface Period {
  fromMs: number;
  toMs: number;
  offsetMs: number;
}

/** The periods of these years are read in advance: at most some 260, in a few milliseconds. */
const FIRST_MS = Date.UTC(1970, 0);
const LAST_MS = Date.UTC(2100, 0);

/**
 * @param timeZone an IANA name
 * @returns a function that returns the same offset as `Temporal` at a tenth of its cost, which would be a tenth of that of
 *   validating an order. Outside of the years 1970 to 2099 it calls `Temporal`
 */
export function createOffsetAt(timeZone: string): OffsetAt {
  if (timeZone === "UTC") return () => 0;
  const zonedAt = (ms: number) => Temporal.Instant.fromEpochMilliseconds(ms).toZonedDateTimeISO(timeZone);
  const periods = readPeriods(zonedAt(FIRST_MS));
  // Most orders are in the same period as the one before.
  let last = periods[0] as Period;
  return (ms) => {
    if (ms >= last.fromMs && ms < last.toMs) return last.offsetMs;
    if (ms < FIRST_MS || ms >= LAST_MS) return offsetOf(zonedAt(ms));
    last = findPeriod(periods, ms);
    return last.offsetMs;
  };
}

const offsetOf = ({ offsetNanoseconds }: Temporal.ZonedDateTime) => offsetNanoseconds / 1_000_000;

function readPeriods(first: Temporal.ZonedDateTime): Period[] {
  const periods: Period[] = [];
  for (let start: Temporal.ZonedDateTime | null = first; start && start.epochMilliseconds < LAST_MS; ) {
    const next: Temporal.ZonedDateTime | null = start.getTimeZoneTransition("next");
    const toMs = next?.epochMilliseconds ?? Number.POSITIVE_INFINITY;
    periods.push({ fromMs: start.epochMilliseconds, toMs, offsetMs: offsetOf(start) });
    start = next;
  }
  return periods;
}

/** Binary search. */
function findPeriod(periods: Period[], ms: number): Period {
  let [low, high] = [0, periods.length - 1];
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if ((periods[middle] as Period).fromMs <= ms) low = middle;
    else high = middle - 1;
  }
  return periods[low] as Period;
}
