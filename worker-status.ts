/** The state of a consumer worker, as the main thread sees it. */
export interface WorkerStatus {
  state: "running" | "paused" | "restarting";
  /** Why it does not process messages; absent while it does. */
  reason?: string;
  /** Milliseconds since its last progress; absent while it is restarting. */
  sinceProgressMs?: number;
}
