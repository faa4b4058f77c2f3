/** What a measurement runs on: an empty queue, an empty store, and the program under test, each in a process of its own. */

import { readConfig } from "../../config.ts";
import { locateQueue } from "../../queue/setup.ts";
import { openStore } from "../../store/open.ts";
import { freePort, spawn, waitFor } from "./processes.ts";
import { connectSqs } from "./sqs.ts";

/** Starts an emulator. @returns its process, with the address of an empty queue and the requests to it */
export async function startEmulator() {
  const port = `${freePort()}`;
  const child = spawn([process.execPath, "scripts/bench/competitors/emulator.ts"], { PORT: port });
  const name = { name: "bench", endpoint: `http://127.0.0.1:${port}`, embedded: true };
  const address = await waitFor(child, () => locateQueue(name));
  return Object.assign(child, { address, sqs: connectSqs(address) });
}

/** Without files: the program is measured, not the disk. */
function startRedisServer(options: string[] = []) {
  const port = freePort();
  const command = ["redis-server", "--port", `${port}`, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
  return Object.assign(spawn([...command, ...options]), { port });
}

/** Starts an empty Redis. @returns the store on it, the process, and the environment that names it */
export async function startRedis() {
  await using owned = new AsyncDisposableStack();
  const server = owned.use(startRedisServer());
  const url = `redis://127.0.0.1:${server.port}`;
  const store = await waitFor(server, () => openStore({ kind: "redis", url }));
  owned.defer(store.close);
  return Object.assign(owned.move(), { store, server, env: { REDIS_URL: url } });
}

interface Environment {
  emulator: Awaited<ReturnType<typeof startEmulator>>;
  redis: { env: Record<string, string> } | undefined;
  /** Undefined: the program's own default. */
  workers?: number | undefined;
  concurrency?: number | undefined;
}

/** Starts the program, or a competitor with the same environment. @returns the process; it may not listen at `url` yet */
export function startProgram(command: string[], environment: Environment) {
  const { emulator, redis, workers = "", concurrency = "" } = environment;
  const { address } = emulator;
  const port = `${freePort()}`;
  // Passed as numbers, defaults too: competitors do not read the program's configuration.
  const { consumer } = readConfig({ CONSUMER_WORKERS: `${workers}`, CONSUMER_CONCURRENCY: `${concurrency}` });
  const child = spawn([process.execPath, ...command], {
    AWS_REGION: "us-east-1",
    AWS_ACCESS_KEY_ID: "bench",
    AWS_SECRET_ACCESS_KEY: "bench",
    AWS_ENDPOINT_URL: address.endpoint ?? "",
    SQS_QUEUE_URL: address.url,
    ...redis?.env,
    PORT: port,
    LOG_LEVEL: "error",
    CONSUMER_WORKERS: `${consumer.workers}`,
    CONSUMER_CONCURRENCY: `${consumer.concurrency}`,
  });
  return Object.assign(child, { url: `http://127.0.0.1:${port}` });
}
