import { join } from "node:path";

/** Where index.ts is. */
export const PROGRAM_DIR = join(import.meta.dir, "../..");

/** Short, so that a program that cannot start without Redis starts soon after Redis does. */
const RESTART_PAUSE_MS = 200;
/** A stop takes at most ten seconds, and longer on a busy machine. */
const EXIT_TIMEOUT_MS = 15_000;

export type SupervisedProgram = ReturnType<typeof superviseProgram>;

/** Starts a program, and again whenever it has exited, as a container platform does. `env` is its whole environment. */
export function superviseProgram(env: Record<string, string>, file = "index.ts", cwd = PROGRAM_DIR) {
  let stopped = false;
  let started = false;
  let child = spawn();

  function spawn(): Bun.Subprocess {
    const spawned = Bun.spawn([process.execPath, file], {
      cwd,
      env: { PATH: process.env.PATH ?? "", CONSUMER_WORKERS: "2", PORT: "0", ...env },
      stdout: "pipe",
      stderr: process.env.FAULTS_DEBUG ? "inherit" : "ignore",
      onExit: async () => {
        await Bun.sleep(RESTART_PAUSE_MS);
        if (!stopped) child = spawn();
      },
    });
    void noteStart(spawned.stdout);
    return spawned;
  }

  /** Reads all of the output: a full pipe would block the program. */
  async function noteStart(output: ReadableStream<Uint8Array>) {
    for await (const chunk of output) started ||= new TextDecoder().decode(chunk).includes('"event":"started"');
  }

  /** Sends signals to the process that runs now, and waits until it has exited. */
  async function end(...signals: NodeJS.Signals[]) {
    const ending = child;
    for (const signal of signals) ending.kill(signal);
    await Promise.race([ending.exited, Bun.sleep(EXIT_TIMEOUT_MS)]);
    if (ending.exitCode === null && ending.signalCode === null)
      throw new Error(`A program is still there ${EXIT_TIMEOUT_MS / 1000} s after ${signals.join(" and ")}`);
  }

  async function stop() {
    stopped = true;
    await end("SIGKILL");
  }

  /** Whether it has started at least once. */
  const hasStarted = () => started;
  return { hasStarted, end, stop };
}
