/** The processes and files of a benchmark: started, measured from outside, and never left behind. */

import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

export type Child = Bun.Subprocess<"ignore", "ignore" | "pipe", "inherit">;

/** The longest measurement, a million orders, takes two minutes: after ten, something hangs. */
export const DEADLINE_MS = 10 * 60_000;

const ROOT = join(import.meta.dir, "../..");

// Ctrl-C and deadlines leave a block without disposing its processes.
const children = new Set<Child>();
process.on("exit", () => {
  for (const child of children) child.kill("SIGKILL");
});

/** Starts a process, which is killed when it is disposed. Its environment is PATH and `env`, nothing of the shell's. */
export function spawn(
  command: string[],
  env: Record<string, string> = {},
  stdout: "ignore" | "pipe" = "ignore",
): Child {
  const options = { cwd: ROOT, env: { PATH: Bun.env.PATH ?? "", ...env }, stdout, stderr: "inherit" } as const;
  const child: Child = Bun.spawn(command, {
    ...options,
    killSignal: "SIGKILL",
    onExit: () => void children.delete(child),
  });
  children.add(child);
  return child;
}

/**
 * Calls `read` every 10 ms until it returns something else than false. Refused connections are retried.
 *
 * @throws an Error when `child`, which is to bring about the result, has ended, or after `DEADLINE_MS`
 */
export async function waitFor<T>(child: Child, read: () => Promise<T | false>): Promise<T> {
  const endsMs = performance.now() + DEADLINE_MS;
  while (performance.now() < endsMs) {
    if (!children.has(child)) throw new Error("A process that was being measured has ended");
    const result = await read().catch((error) => {
      if (/refused|Unable to connect|ENOENT/.test(`${error}`)) return false as const;
      throw error;
    });
    if (result !== false) return result;
    await Bun.sleep(10);
  }
  throw new Error("A process takes too long");
}

/** @returns user and system time of a process and all its threads, µs (proc(5): fields 14 and 15, in ticks of 10 ms) */
export function cpuMicros({ pid }: Child): number {
  const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[11]) + Number(fields[12])) * 10_000;
}

/** @returns the resident memory of a process, now and at most (proc(5): VmRSS and VmHWM, in KiB) */
export function memoryOf({ pid }: Child) {
  const status = readFileSync(`/proc/${pid}/status`, "utf8");
  const read = (name: string) => Number(new RegExp(`${name}:\\s+(\\d+)`).exec(status)?.[1]) / 1024;
  return { residentMebibytes: read("VmRSS"), peakMebibytes: read("VmHWM") };
}

/** @returns an empty folder that is removed when this process exits */
export function temporaryFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), "bench-"));
  process.on("exit", () => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** @returns a port that was free a moment ago */
export function freePort(): number {
  const server = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
  server.stop(true);
  return server.port;
}
