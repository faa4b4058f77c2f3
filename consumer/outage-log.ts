import type { Log } from "../log.ts";

export type OutageLog = ReturnType<typeof createOutageLog>;

/** For what counting can do without: one line when it begins to fail and one when it works again. */
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
