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
  // Watched from the start: the exit of a worker that has crashed does not come again at the stop.
  const exited = new Promise<number>((resolve) => worker.once("exit", resolve));
  const listening = await started(worker, exited, port);
  let stopping = false;
  worker.on("error", onCrash);
  void exited.then((code) => stopping || onCrash(new Error(`The embedded queue ended with code ${code}`)));

  async function stop() {
    stopping = true;
    worker.postMessage("stop");
    const timer = setTimeout(() => worker.terminate(), STOP_DEADLINE_MS);
    await exited;
    clearTimeout(timer);
  }

  return { endpoint: `http://127.0.0.1:${listening}`, stop };
}

async function started(worker: Worker, exited: Promise<number>, port: number): Promise<number> {
  try {
    const ended = exited.then((code) => Promise.reject(new Error(`it ended with code ${code}`)));
    const [message] = await Promise.race([once(worker, "message"), ended]);
    ended.catch(() => {});
    return message.port;
  } catch (error) {
    const text = error instanceof Error ? error.message : String(error);
    const advice = "Stop what listens there, set EMBEDDED_QUEUE_PORT, or use it with AWS_ENDPOINT_URL";
    const reason = /EADDRINUSE|in use/.test(text)
      ? `127.0.0.1:${port} is taken, perhaps by another such program. ${advice}`
      : `${text}. Check DATA_DIR`;
    throw new Error(`Cannot start the embedded queue: ${reason}`, { cause: error });
  }
}
