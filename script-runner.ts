import { readFileSync } from "node:fs";

const CHECK_INTERVAL_MS = 500;

/**
 * Calls `onEnd` when the npm, npx or `bun run` that started this program has ended. npx sends SIGTERM to its shell only, which ends
 * without passing it on. A program that was started directly, in the background for example, may outlive its parent.
 *
 * Linux only: the shell of other systems is replaced by its command, which then gets the signal.
 */
export function watchScriptRunner(onEnd: () => void) {
  const runners = runnersOf(process.pid);
  const timer = setInterval(() => {
    if (runnersOf(process.pid) === runners) return;
    clearInterval(timer);
    onEnd();
  }, CHECK_INTERVAL_MS);
  timer.unref();
}

/** @returns the ids of the parent of `pid`, of its parent and so on, up to the first one that no package script has started */
function runnersOf(pid: number): string {
  if (!readProc(pid, "environ").includes("npm_lifecycle_event=")) return "";
  const parent = Number(/^PPid:\s*(\d+)/m.exec(readProc(pid, "status"))?.[1]);
  return `${parent} ${runnersOf(parent)}`;
}

/** @returns "" if the process has ended or belongs to another user */
function readProc(pid: number, file: string): string {
  try {
    return readFileSync(`/proc/${pid}/${file}`, "utf8");
  } catch {
    return "";
  }
}
