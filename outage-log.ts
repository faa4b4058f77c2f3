import { messageOf } from "./errors.ts";
import type { Log } from "./log.ts";

/** Reasons that contain ids or times differ each time, and must not fill the log. */
const MAX_REASONS = 10;

/**
 * Logs the outages of one thing: each reason once per outage, and the recovery.
 *
 * @returns `failed` and `succeeded`, to be called after every attempt
 */
export function createOutageLog(
  log: Log,
  events: { failed: string; recovered: string },
  level: "warn" | "error" = "warn",
) {
  const reasons = new Set<string>();

  /** @param error is logged with its stack, a string as `reason` */
  function failed(error: unknown) {
    const reason = messageOf(error);
    if (reasons.has(reason) || reasons.size >= MAX_REASONS) return;
    reasons.add(reason);
    log[level]({ event: events.failed, ...(typeof error === "string" ? { reason } : { error }) });
  }

  /** @param fields are added to the line of a recovery */
  function succeeded(fields: object = {}) {
    if (reasons.size > 0) log.info({ event: events.recovered, ...fields });
    reasons.clear();
  }

  return { failed, succeeded };
}
