import type { Log } from "../log.ts";

export type OutageLog = ReturnType<typeof createOutageLog>;

/**
 * Logs an outage of something that counting does not depend on.
 *
 * @returns `failed` and `succeeded`, to be called after every attempt. Only the first failure and the recovery are logged
 */
export function createOutageLog(log: Log, events: { failed: string; recovered: string }) {
  let failing = false;

  function failed(error: unknown) {
    if (!failing) log.warn({ event: events.failed, error });
    failing = true;
  }

  function succeeded() {
    if (failing) log.info({ event: events.recovered });
    failing = false;
  }

  return { failed, succeeded };
}
