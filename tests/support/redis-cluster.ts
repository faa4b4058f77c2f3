import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Redis } from "ioredis";
import type { StoreAddress } from "../../store/open.ts";
import { waitFor } from "./wait-for.ts";

/** Short, so that a test of a failover is; a busy machine must not be taken for a dead one all the same. */
const NODE_TIMEOUT_MS = 2_000;

export type RedisCluster = Awaited<ReturnType<typeof startRedisCluster>>;

/** A real Redis Cluster on loopback: three masters, each with a replica, append-only `always`. */
export async function startRedisCluster() {
  const dir = mkdtempSync(join(tmpdir(), "cluster-"));
  const ports = Array.from({ length: 6 }, freeClusterPort);
  const children = new Map<number, Bun.Subprocess>();

  /** Starts a node, for the first time or again on its own files. */
  async function start(port: number) {
    const net = ["--port", `${port}`, "--bind", "127.0.0.1", "--cluster-enabled", "yes"];
    const cluster = ["--cluster-config-file", `${port}.conf`, "--cluster-node-timeout", `${NODE_TIMEOUT_MS}`];
    const files = ["--dir", dir, "--appendonly", "yes", "--appendfsync", "always", "--save", ""];
    const names = ["--appenddirname", `aof-${port}`, "--dbfilename", `${port}.rdb`, "--repl-diskless-sync-delay", "0"];
    children.set(port, Bun.spawn(["redis-server", ...net, ...cluster, ...files, ...names], { stdout: "ignore" }));
    await waitFor(`node ${port}`, async () => (await cli(port, "PING")) === "PONG");
  }

  /** Ends it at once, as a crash would. */
  async function kill(port: number) {
    children.get(port)?.kill("SIGKILL");
    await children.get(port)?.exited;
  }

  async function stop() {
    await Promise.all(ports.map(kill));
    rmSync(dir, { recursive: true, force: true });
  }

  /** The lines of CLUSTER NODES as a living node sees them. */
  async function nodes() {
    const living = ports.find((port) => children.get(port)?.exitCode === null && !children.get(port)?.killed);
    const lines = (await cli(living ?? 0, "CLUSTER", "NODES")).split("\n").filter(Boolean);
    return lines.map((line) => {
      const [id = "", address = "", flags = "", master = "", , , , link = "", ...slots] = line.split(" ");
      const role = flags.includes("master") ? "master" : "replica";
      const well = !/fail|handshake|noaddr/.test(flags) && link === "connected";
      return { id, port: Number(/:(\d+)/.exec(address)?.[1]), role, well, master, slots };
    });
  }

  const masters = async () => (await nodes()).filter(({ role, well, slots }) => role === "master" && well && slots[0]);

  /** Whether every slot has a master and every master a replica that follows it, as a living node sees it. */
  async function isWhole(): Promise<boolean> {
    const living = ports.filter((port) => !children.get(port)?.killed);
    const states = await Promise.all(living.map((port) => cli(port, "CLUSTER", "INFO")));
    if (!states.every((state) => state.includes("cluster_state:ok"))) return false;
    const known = (await nodes()).filter(({ well }) => well);
    const replicas = known.filter(({ role }) => role === "replica");
    const links = await Promise.all(replicas.map(({ port }) => cli(port, "INFO", "replication")));
    const following = links.filter((link) => link.includes("master_link_status:up"));
    return known.length === 6 && following.length === 3 && new Set(replicas.map(({ master }) => master)).size === 3;
  }

  /** Moves slots from one master to another, as an operator does. */
  async function reshard(from: string, to: string, slots: number) {
    const ids = ["--cluster-from", from, "--cluster-to", to, "--cluster-slots", `${slots}`, "--cluster-yes"];
    await run(["redis-cli", "--cluster", "reshard", `127.0.0.1:${(await masters())[0]?.port}`, ...ids]);
  }

  async function flush() {
    for (const { port } of await masters()) await cli(port, "FLUSHALL");
  }

  await Promise.all(ports.map(start));
  const addresses = ports.map((port) => `127.0.0.1:${port}`);
  await run(["redis-cli", "--cluster", "create", ...addresses, "--cluster-replicas", "1", "--cluster-yes"]);
  await waitFor("the cluster", isWhole, 60_000);
  const address = (more: object = {}): StoreAddress => ({
    kind: "cluster",
    nodes: addresses,
    shards: 16,
    waitReplicas: 0,
    ...more,
  });
  const pid = (port: number) => children.get(port)?.pid ?? 0;
  return { address, ports, pid, start, kill, stop, nodes, masters, isWhole, reshard, flush };
}

/** A command to one node; what it says, or nothing where it does not answer. */
export async function cli(port: number, name: string, ...args: string[]): Promise<string> {
  const redis = new Redis(port, { lazyConnect: true, retryStrategy: () => null, commandTimeout: 5_000 });
  redis.on("error", () => {});
  try {
    await redis.connect();
    return `${await redis.call(name, ...args)}`;
  } catch (error) {
    return `${error}`;
  } finally {
    redis.disconnect();
  }
}

/** Runs a command to its end; rejects with what it says when it fails. */
export async function run(command: string[]): Promise<string> {
  const child = Bun.spawn(command, { stdout: "pipe", stderr: "pipe" });
  const [out, err] = await Promise.all([child.stdout.text(), child.stderr.text()]);
  if ((await child.exited) !== 0) throw new Error(`${command.join(" ")} failed: ${out}${err}`);
  return out;
}

/** A port that is free, as is its cluster bus, ten thousand above it. */
function freeClusterPort(): number {
  for (;;) {
    const port = 10_000 + Math.floor(Math.random() * 20_000);
    try {
      for (const each of [port, port + 10_000])
        Bun.listen({ hostname: "127.0.0.1", port: each, socket: { data() {} } }).stop(true);
      return port;
    } catch {}
  }
}
