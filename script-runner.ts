import { readFileSync } from "node:fs";

const CHECK_INTERVAL_MS = 500;

/**
 * Calls `onEnd` when the npm, npx or `bun run` that started this program has ended. npx sends SIGTERM to its shell only, which ends
 * without passing it on. A program that was started directly, in the background for example, may outlive its parent.
 *
 * Linux only: the shell of other systems is replaced by its command, which then gets the signal.
 */
export function watchScriptRunner(onEnd: () => void) {
  const parents = parentsOfScript(process.pid);
  const timer = setInterval(() => {
    if (parents.every(([pid, parent]) => parentOf(pid) === parent)) return;
    clearInterval(timer);
    onEnd();
  }, CHECK_INTERVAL_MS);
  timer.unref();
}

/** @returns each process and its parent, from `pid` up to the first one that a package script did not start */
function parentsOfScript(pid: number): [pid: number, parent: number][] {
  if (!readProc(pid, "environ").includes("npm_lifecycle_event=")) return [];
  const parent = parentOf(pid);
  return [[pid, parent], ...parentsOfScript(parent)];
}

const parentOf = (pid: number) => Number(/^PPid:\s*(\d+)/m.exec(readProc(pid, "status"))?.[1]);

function readProc(pid: number, file: string): string {
  try {
    return readFileSync(`/proc/${pid}/${file}`, "utf8");
  } catch {
    return "";
  }
}
