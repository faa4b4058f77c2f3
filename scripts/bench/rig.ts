/** What a measurement runs on: a fresh queue, a fresh Redis, and the process under test. */

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { locateQueue } from "../../queue/setup.ts";
import { openStore } from "../../store/open.ts";
import type { WholeStore } from "../../store/store.ts";
import { type Child, freePort, spawn, waitFor } from "./processes.ts";
import { connectSqs } from "./sqs.ts";

/** Where a process may run: on one core, or anywhere where none is named. */
const pinned = (core: number | undefined, command: string[]) =>
  core === undefined ? command : ["taskset", "--cpu-list", `${core}`, ...command];

/** An empty queue in a process of its own. */
export async function startEmulator(core?: number) {
  const port = `${freePort()}`;
  const command = pinned(core, [process.execPath, "scripts/bench/sides/emulator.ts"]);
  const child = spawn(command, { PORT: port });
  const wanted = { name: "bench", endpoint: `http://127.0.0.1:${port}`, embedded: true };
  const address = await waitFor(child, () => locateQueue(wanted));
  return { ...child, address, sqs: connectSqs(address) };
}

/** It writes nothing to disk: what is measured is the program, not the disk. */
function startServer(core: number | undefined, more: string[] = []) {
  const port = freePort();
  const files = ["--save", "", "--appendonly", "no"];
  return {
    ...spawn(pinned(core, ["redis-server", "--port", `${port}`, "--bind", "127.0.0.1", ...files, ...more]), {}),
    port,
  };
}

/** A store of the bench, with the servers that it runs on. */
export interface StoreRig extends AsyncDisposable {
  store: WholeStore;
  servers: Child[];
  env: Record<string, string>;
}

/** An empty Redis and the store on it. */
export async function startRedis(core?: number) {
  const child = startServer(core);
  const url = `redis://127.0.0.1:${child.port}`;
  const store = await waitFor(child, () => openStore({ kind: "redis", url }));
  async function dispose() {
    await store.close();
    await child[Symbol.asyncDispose]();
  }
  return { store, url, servers: [child], env: { REDIS_URL: url }, [Symbol.asyncDispose]: dispose };
}

interface ClusterSetting {
  /** Three or more. */
  masters: number;
  /** Of each master. */
  replicas?: number;
  shards: number;
  waitReplicas?: number;
  core?: number;
}

/** An empty Redis Cluster and the store on it. */
export async function startCluster(setting: ClusterSetting): Promise<StoreRig> {
  const { masters, replicas = 0, shards, waitReplicas = 0, core } = setting;
  await using parts = new AsyncDisposableStack();
  const folder = mkdtempSync(join(tmpdir(), "bench-"));
  parts.defer(() => rmSync(folder, { recursive: true }));
  const servers = Array.from({ length: masters * (1 + replicas) }, (_, index) => {
    const file = ["--dir", folder, "--cluster-config-file", `${index}.conf`];
    // Its bus is ten thousand above its port where no other is given, which may be no port at all.
    return parts.use(startServer(core, ["--cluster-enabled", "yes", "--cluster-port", `${freePort()}`, ...file]));
  });
  const nodes = servers.map(({ port }) => `127.0.0.1:${port}`);
  const first = servers[0] as Child;
  await waitFor(first, async () => {
    const wanted = ["--cluster-replicas", `${replicas}`, "--cluster-yes"];
    await using creating = spawn(["redis-cli", "--cluster", "create", ...nodes, ...wanted], {}, "pipe");
    return /All 16384 slots covered/.test(await creating.output());
  });
  const store = await waitFor(first, () =>
    openStore({ kind: "cluster", nodes, shards, waitReplicas }).catch(() => false as const),
  );
  parts.defer(() => store.close());
  const takesOrders = () =>
    store.check().then(
      () => true,
      () => false,
    );
  await waitFor(first, takesOrders);
  const owned = parts.move();
  const env = { REDIS_CLUSTER_NODES: nodes.join() };
  return { store, servers, env, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

interface Setting {
  emulator: Awaited<ReturnType<typeof startEmulator>>;
  redis: { env: Record<string, string> } | undefined;
  /** Where absent, the program's own choice. */
  workers?: number | undefined;
  concurrency?: number | undefined;
  core?: number | undefined;
}

/** Starts the program, or what is told in the same way, and does not wait until it listens. */
export function startProgram(command: string[], { emulator: { address }, redis, ...setting }: Setting) {
  const port = `${freePort()}`;
  const child = spawn(pinned(setting.core, [process.execPath, ...command]), {
    AWS_REGION: "us-east-1",
    AWS_ACCESS_KEY_ID: "bench",
    AWS_SECRET_ACCESS_KEY: "bench",
    AWS_ENDPOINT_URL: address.endpoint ?? "",
    SQS_QUEUE_URL: address.url,
    ...redis?.env,
    PORT: port,
    LOG_LEVEL: "error",
    CONSUMER_WORKERS: `${setting.workers ?? ""}`,
    CONSUMER_CONCURRENCY: `${setting.concurrency ?? ""}`,
  });
  return { ...child, url: `http://127.0.0.1:${port}` };
}
