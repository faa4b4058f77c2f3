import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Queue } from "../../queue/queue.ts";
import { waitFor } from "./wait-for.ts";

const ROOT = join(import.meta.dir, "../..");

export interface Program {
  url: string;
  pid: number;
  exited: Promise<number>;
  /** Everything it wrote so far. */
  output(): string;
  kill(signal: NodeJS.Signals): void;
  get(path: string): Promise<Response>;
}

export const AWS = { AWS_REGION: "us-east-1", AWS_ACCESS_KEY_ID: "test", AWS_SECRET_ACCESS_KEY: "test" };

/** The environment of a program on a queue of an emulator and a store in Redis. */
export const shop = ({ address }: Queue, redisUrl: string, extra: Record<string, string> = {}) => ({
  ...AWS,
  AWS_ENDPOINT_URL: address.endpoint ?? "",
  SQS_QUEUE_URL: address.url,
  REDIS_URL: redisUrl,
  CONSUMER_WORKERS: "2",
  ...extra,
});

/** A folder that is gone when the test process ends. */
export function temporaryFolder(): string {
  const dir = mkdtempSync(join(tmpdir(), "orders-"));
  process.on("exit", () => rmSync(dir, { recursive: true, force: true }));
  return dir;
}

/** @returns a time zone whose date is not that of UTC now */
export const zoneOfAnotherDate = () => (new Date().getUTCHours() < 12 ? "Etc/GMT+12" : "Pacific/Kiritimati");

/** Starts the real program as a process of its own on a free port, behind `wrapper`. The environment is this and nothing else. */
export function spawnProgram(
  env: Record<string, string>,
  wrapper: string[] = [],
  file = "index.ts",
): {
  child: Bun.Subprocess<"ignore", "pipe", "pipe">;
  output: () => string;
} {
  let text = "";
  const child = Bun.spawn([...wrapper, process.execPath, file], {
    cwd: ROOT,
    env: {
      PATH: process.env.PATH ?? "",
      HOME: process.env.HOME ?? "",
      PORT: "0",
      EMBEDDED_QUEUE_PORT: "0",
      ...env,
    },
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
  });
  for (const stream of [child.stdout, child.stderr]) {
    void (async () => {
      for await (const chunk of stream) text += new TextDecoder().decode(chunk);
    })();
  }
  return { child, output: () => text };
}

/** The same, once it has said that it has started. */
export async function startProgram(
  env: Record<string, string>,
  wrapper: string[] = [],
  file?: string,
): Promise<Program> {
  const { child, output } = spawnProgram(env, wrapper, file);
  const begun = () => output().includes('"started"') || child.exitCode !== null;
  // Several that start at once on a busy machine take seconds.
  await waitFor("the program to start", begun, 30_000).catch(() => child.kill("SIGKILL"));
  const started = eventsOf(output()).find(({ event }) => event === "started");
  if (!started) throw new Error(`The program did not start: ${output()}`);
  return {
    url: started.api as string,
    pid: child.pid,
    exited: child.exited,
    output,
    kill: (signal) => child.kill(signal),
    get: (path) => fetch(`${started.api}${path}`),
  };
}

/** The JSON lines of a program's output. */
export function eventsOf(output: string): Record<string, unknown>[] {
  return output.split("\n").flatMap((line) => (line.startsWith("{") ? [JSON.parse(line)] : []));
}
