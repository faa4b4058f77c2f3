import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Redis } from "ioredis";
import { waitFor } from "./wait-for.ts";

/** Enough for a fresh one per test of a file. */
const DATABASES = 1000;
/** Below the ports of outgoing connections, one of which could take the port before the server listens. */
const [MIN_PORT, MAX_PORT] = [10_000, 32_000];
/** A busy machine may take seconds to reply; a hung server never does. */
const COMMAND_TIMEOUT_MS = 5_000;

export interface RedisServer {
  /** The URL of a logical database that no other test uses. */
  freshUrl(): string;
  port: number;
  pid(): number;
  command(name: string, ...args: string[]): Promise<unknown>;
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
    const replication = ["--repl-diskless-sync-delay", "0"];
    child = Bun.spawn([path ?? "", ...net, ...files, ...replication], { stdout: "ignore", stderr: "ignore" });
    await waitFor("redis-server", () => isUp(port), 60_000);
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
  const command = (name: string, ...args: string[]) => sendCommand(port, name, ...args);
  return { freshUrl, port, pid: () => child?.pid ?? 0, command, kill, start, stop };
}

/** @returns a port that was free a moment ago, as was the one `offset` above it */
export function freePort(offset = 0): number {
  for (;;) {
    const port = MIN_PORT + Math.floor(Math.random() * (MAX_PORT - MIN_PORT - offset));
    try {
      for (const each of new Set([port, port + offset]))
        Bun.listen({ hostname: "127.0.0.1", port: each, socket: { data() {} } }).stop(true);
      return port;
    } catch {}
  }
}

/** Sends one command to a Redis on loopback, on a connection of its own. @throws the error that Redis replies with, or the network's */
export async function sendCommand(port: number, name: string, ...args: (string | number)[]): Promise<unknown> {
  const redis = new Redis(port, { lazyConnect: true, retryStrategy: () => null, commandTimeout: COMMAND_TIMEOUT_MS });
  redis.on("error", () => {});
  try {
    await redis.connect();
    return await redis.call(name, ...args);
  } finally {
    redis.disconnect();
  }
}

const isUp = (port: number) =>
  sendCommand(port, "PING").then(
    () => true,
    () => false,
  );
