/** What a measurement runs on: a fresh queue, a fresh Redis, and the process under test. */

import { locateQueue } from "../../queue/setup.ts";
import { openStore } from "../../store/open.ts";
import { freePort, spawn, waitFor } from "./processes.ts";
import { connectSqs } from "./sqs.ts";

/** An empty queue in a process of its own. */
export async function startEmulator() {
  const port = `${freePort()}`;
  const child = spawn([process.execPath, "scripts/bench/sides/emulator.ts"], { PORT: port });
  const wanted = { name: "bench", endpoint: `http://127.0.0.1:${port}`, embedded: true };
  const address = await waitFor(child, () => locateQueue(wanted));
  return { ...child, address, sqs: connectSqs(address) };
}

/** An empty Redis and the store on it. It writes nothing to disk: what is measured is the program, not the disk. */
export async function startRedis() {
  const port = `${freePort()}`;
  const child = spawn(["redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"], {});
  const url = `redis://127.0.0.1:${port}`;
  const store = await waitFor(child, () => openStore({ kind: "redis", url }));
  async function dispose() {
    await store.close();
    await child[Symbol.asyncDispose]();
  }
  return { ...child, url, store, [Symbol.asyncDispose]: dispose };
}

interface Setting {
  emulator: Awaited<ReturnType<typeof startEmulator>>;
  redis: { url: string } | undefined;
  /** Where absent, the program's own choice. */
  workers?: number | undefined;
  concurrency?: number | undefined;
}

/** Starts the program, or what is told in the same way, and does not wait until it listens. */
export function startProgram(command: string[], { emulator: { address }, redis, workers, concurrency }: Setting) {
  const port = `${freePort()}`;
  const child = spawn([process.execPath, ...command], {
    AWS_REGION: "us-east-1",
    AWS_ACCESS_KEY_ID: "bench",
    AWS_SECRET_ACCESS_KEY: "bench",
    AWS_ENDPOINT_URL: address.endpoint ?? "",
    SQS_QUEUE_URL: address.url,
    REDIS_URL: redis?.url ?? "",
    PORT: port,
    LOG_LEVEL: "error",
    CONSUMER_WORKERS: `${workers ?? ""}`,
    CONSUMER_CONCURRENCY: `${concurrency ?? ""}`,
  });
  return { ...child, url: `http://127.0.0.1:${port}` };
}
