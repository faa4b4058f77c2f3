/** The processes of the bench: started, watched from outside, and never left behind. */

import { readFileSync } from "node:fs";
import { join } from "node:path";

export interface Child extends AsyncDisposable {
  pid: number;
  hasEnded(): boolean;
  /** All that it prints, where it is piped. */
  output(): Promise<string>;
}

/** The longest measurement, a million orders, takes some two minutes: what takes longer than ten hangs. */
export const DEADLINE_MS = 10 * 60_000;

const ROOT = join(import.meta.dir, "../..");

// Ctrl-C, a deadline or an error elsewhere leave a block without disposing: the end of this process does it then.
const children = new Set<Bun.Subprocess>();
process.on("exit", () => {
  for (const child of children) child.kill("SIGKILL");
});

/** A process that ends with the block it was started in. It sees `env` alone: no setting of the shell counts. */
export function spawn(command: string[], env: Record<string, string>, stdout: "ignore" | "pipe" = "ignore"): Child {
  requireProgram(command[0] ?? "");
  const own = { PATH: Bun.env.PATH ?? "", ...env };
  const child = Bun.spawn(command, { cwd: ROOT, env: own, stdout, stderr: "inherit" });
  children.add(child);
  async function dispose() {
    child.kill("SIGKILL");
    await child.exited;
    children.delete(child);
  }
  const hasEnded = () => child.exitCode !== null || child.signalCode !== null;
  const output = () => new Response(child.stdout).text();
  return { pid: child.pid, hasEnded, output, [Symbol.asyncDispose]: dispose };
}

/** Throws one sentence where it is not installed. */
export function requireProgram(name: string) {
  if (!Bun.which(name)) throw new Error(`${name} is missing: apt-get install ${name}`);
}

/** Asks until the answer is not false. Rejects when the child that is to bring it about has ended, or takes too long. */
export async function waitFor<T>(child: Child, ask: () => Promise<T | false>, pauseMs = 10): Promise<T> {
  const endsMs = performance.now() + DEADLINE_MS;
  while (!child.hasEnded() && performance.now() < endsMs) {
    const answer = await ask().catch((error) => {
      // The child does not listen yet, or is no more.
      if (/refused|Unable to connect|ENOENT/.test(`${error}`)) return false as const;
      throw error;
    });
    if (answer !== false) return answer;
    await Bun.sleep(pauseMs);
  }
  throw new Error(child.hasEnded() ? "A process that was being measured has ended" : "A process takes too long");
}

/** User and system time of a process and all its threads, µs (proc(5): fields 14 and 15, in ticks of 10 ms). */
export function cpuMicros({ pid }: Child): number {
  const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[11]) + Number(fields[12])) * 10_000;
}

/** Resident memory of a process (proc(5): VmRSS). */
export function rssMib({ pid }: Child): number {
  return Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]) / 1024;
}

/** A port that was free a moment ago. */
export function freePort(): number {
  const server = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
  server.stop(true);
  return server.port;
}
