import { once } from "node:events";
import { Worker } from "node:worker_threads";

export interface Emulator {
  endpoint: string;
  stop(): Promise<void>;
}

/** How long the emulator may take to close its file before its thread is ended; every write is on disk by then. */
const STOP_DEADLINE_MS = 2_000;

/** Starts the embedded queue on loopback. Port 0 takes any free one. Rejects with one sentence. */
export async function startEmulator(
  { port, dir }: { port: number; dir: string },
  onCrash: (error: unknown) => void,
): Promise<Emulator> {
  const worker = new Worker(new URL("./emulator-worker.ts", import.meta.url), { workerData: { port, dir } });
  const listening = await started(worker, port);
  let stopping = false;
  worker.on("error", onCrash);
  worker.on("exit", (code) => stopping || onCrash(new Error(`The embedded queue ended with code ${code}`)));

  async function stop() {
    stopping = true;
    const exited = new Promise((resolve) => worker.once("exit", resolve));
    worker.postMessage("stop");
    const timer = setTimeout(() => worker.terminate(), STOP_DEADLINE_MS);
    await exited;
    clearTimeout(timer);
  }

  return { endpoint: `http://127.0.0.1:${listening}`, stop };
}

async function started(worker: Worker, port: number): Promise<number> {
  try {
    const [message] = await once(worker, "message");
    return message.port;
  } catch (error) {
    const taken = /EADDRINUSE|in use/.test(`${error}`);
    const reason = taken
      ? "the port is taken. Stop what listens there, set EMBEDDED_QUEUE_PORT, or use it with AWS_ENDPOINT_URL"
      : error;
    throw new Error(`Cannot start the embedded queue on 127.0.0.1:${port}: ${reason}`, { cause: error });
  }
}
