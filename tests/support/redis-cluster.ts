import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { StoreAddress } from "../../store/open.ts";
import type { RedisAddress } from "../../store/redis-connection.ts";
import { freePort, sendCommand } from "./redis-server.ts";
import { waitFor } from "./wait-for.ts";

/** Short, so that a failover is; long enough that a node on a busy machine does not count as failed. */
const NODE_TIMEOUT_MS = 2_000;
/** The port of the cluster bus minus that of the node. */
const BUS_OFFSET = 10_000;
/** As many as redis-cli moves at a time. */
const KEYS_MOVED_AT_ONCE = 10;

export type RedisCluster = Awaited<ReturnType<typeof startRedisCluster>>;

/** A real Redis Cluster on loopback: three masters, each with a replica, append-only `always`. */
export async function startRedisCluster() {
  const dir = mkdtempSync(join(tmpdir(), "cluster-"));
  const ports = Array.from({ length: 6 }, () => freePort(BUS_OFFSET));
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

  /** The lines of CLUSTER NODES as a running node reports them. */
  async function nodes() {
    const running = ports.find((port) => children.get(port)?.exitCode === null && !children.get(port)?.killed);
    const lines = (await cli(running ?? 0, "CLUSTER", "NODES")).split("\n").filter(Boolean);
    return lines.map((line) => {
      const [id = "", address = "", flags = "", master = "", , , , link = "", ...slots] = line.split(" ");
      const role = flags.includes("master") ? "master" : "replica";
      const healthy = !/fail|handshake|noaddr/.test(flags) && link === "connected";
      return { id, port: Number(/:(\d+)/.exec(address)?.[1]), role, healthy, master, slots };
    });
  }

  /** The masters that have slots and are reachable. */
  const masters = async () =>
    (await nodes()).filter(({ role, healthy, slots }) => role === "master" && healthy && slots[0]);

  /** Whether every slot has a master and every master a replica that follows it, as a running node reports it. */
  async function isWhole(): Promise<boolean> {
    const running = ports.filter((port) => !children.get(port)?.killed);
    const states = await Promise.all(running.map((port) => cli(port, "CLUSTER", "INFO")));
    if (!states.every((state) => state.includes("cluster_state:ok"))) return false;
    const known = (await nodes()).filter(({ healthy }) => healthy);
    const replicas = known.filter(({ role }) => role === "replica");
    const links = await Promise.all(replicas.map(({ port }) => cli(port, "INFO", "replication")));
    const following = links.filter((link) => link.includes("master_link_status:up"));
    return known.length === 6 && following.length === 3 && new Set(replicas.map(({ master }) => master)).size === 3;
  }

  async function masterOf(slot: number) {
    const inRange = (range: string) => {
      const [first = 0, last = first] = range.split("-").map(Number);
      return first <= slot && slot <= last;
    };
    const found = (await masters()).find(({ slots }) => slots.some(inRange));
    if (!found) throw new Error(`No master has slot ${slot}`);
    return found;
  }

  /** Moves a slot with its keys from the master that has it to another one, as an operator's resharding does. */
  async function moveSlot(slot: number, target: { id: string; port: number }) {
    const source = await masterOf(slot);
    await sendCommand(target.port, "CLUSTER", "SETSLOT", slot, "IMPORTING", source.id);
    await sendCommand(source.port, "CLUSTER", "SETSLOT", slot, "MIGRATING", target.id);
    for (;;) {
      const keys = (await sendCommand(source.port, "CLUSTER", "GETKEYSINSLOT", slot, KEYS_MOVED_AT_ONCE)) as string[];
      if (keys.length === 0) break;
      await sendCommand(source.port, "MIGRATE", "127.0.0.1", target.port, "", 0, 5_000, "KEYS", ...keys);
    }
    const others = (await masters()).filter(({ id }) => id !== target.id && id !== source.id);
    // The new master first: were it the last and died before, nobody would have the slot.
    for (const { port } of [target, source, ...others])
      await sendCommand(port, "CLUSTER", "SETSLOT", slot, "NODE", target.id);
    await waitFor("the slot's new master", async () => (await masterOf(slot)).id === target.id);
  }

  async function flush() {
    for (const { port } of await masters()) await cli(port, "FLUSHALL");
  }

  await Promise.all(ports.map(start));
  const addresses = ports.map((port) => `127.0.0.1:${port}`);
  await run(["redis-cli", "--cluster", "create", ...addresses, "--cluster-replicas", "1", "--cluster-yes"]);
  await waitFor("the cluster", isWhole, 60_000);
  const address = (more: RedisAddress = {}): StoreAddress => ({
    kind: "cluster",
    nodes: ports.map((port) => ({ host: "127.0.0.1", port })),
    waitReplicas: 0,
    ...more,
  });
  const pid = (port: number) => children.get(port)?.pid ?? 0;
  return { address, ports, pid, start, kill, stop, nodes, masters, masterOf, isWhole, moveSlot, flush };
}

/** Sends one command to a node. @returns the reply as text, or the error's where the node is unreachable or refuses it */
export const cli = async (port: number, name: string, ...args: string[]): Promise<string> =>
  `${await sendCommand(port, name, ...args).catch(String)}`;

/** Runs a command to its end. @returns its output. @throws an Error with its output where it fails */
export async function run(command: string[]): Promise<string> {
  const child = Bun.spawn(command, { stdout: "pipe", stderr: "pipe" });
  const [out, err] = await Promise.all([child.stdout.text(), child.stderr.text()]);
  if ((await child.exited) !== 0) throw new Error(`${command.join(" ")} failed: ${out}${err}`);
  return out;
}
