import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Redis } from "ioredis";
import { waitFor } from "./wait-for.ts";

/** Enough for a fresh one per test of a file. */
const DATABASES = 1000;

export interface RedisServer {
  /** The URL of a logical database that no other test uses. */
  freshUrl(): string;
  port: number;
  pid(): number;
  /** Ends it at once, as a crash would. */
  kill(): Promise<void>;
  /** Starts it again on the same port and files. */
  start(): Promise<void>;
  stop(): Promise<void>;
}

/** A real `redis-server` of this test file's own on a free port, append-only `always`. */
export async function startRedisServer(): Promise<RedisServer> {
  const path = Bun.which("redis-server");
  if (!path) throw new Error("redis-server is missing: get it with `bun run test`, or apt-get install redis-server");
  const dir = mkdtempSync(join(tmpdir(), "redis-"));
  const port = freePort();
  let child: Bun.Subprocess | undefined;
  let used = 0;

  async function start() {
    const files = ["--dir", dir, "--appendonly", "yes", "--appendfsync", "always", "--save", ""];
    const net = ["--port", `${port}`, "--bind", "127.0.0.1", "--databases", `${DATABASES}`];
    child = Bun.spawn([path ?? "", ...net, ...files], { stdout: "ignore", stderr: "ignore" });
    await waitFor("redis-server", () => answers(port), 60_000);
  }

  async function kill() {
    child?.kill("SIGKILL");
    await child?.exited;
  }

  async function stop() {
    await kill();
    rmSync(dir, { recursive: true, force: true });
  }

  await start();
  const freshUrl = () => `redis://127.0.0.1:${port}/${used++}`;
  return { freshUrl, port, pid: () => child?.pid ?? 0, kill, start, stop };
}

/** A port that was free a moment ago. */
export function freePort(): number {
  const server = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
  server.stop(true);
  return server.port;
}

async function answers(port: number): Promise<boolean> {
  const redis = new Redis(port, { lazyConnect: true, retryStrategy: () => null });
  redis.on("error", () => {});
  try {
    await redis.connect();
    return (await redis.ping()) === "PONG";
  } catch {
    return false;
  } finally {
    redis.disconnect();
  }
}
