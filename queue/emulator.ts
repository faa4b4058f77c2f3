import { once } from "node:events";
import { Worker } from "node:worker_threads";
import { messageOf } from "../errors.ts";

export interface Emulator {
  endpoint: string;
  stop(): Promise<void>;
}

/** How long the emulator may take to close its file. Terminating it later is safe: every write is on disk already. */
const STOP_DEADLINE_MS = 2_000;

/**
 * Starts the embedded queue on loopback. Port 0 selects a free port.
 *
 * @param onCrash is called with the error when the emulator ends without having been stopped
 * @throws an Error whose message an operator can act on
 */
export async function startEmulator(
  { port, dir }: { port: number; dir: string },
  onCrash: (error: unknown) => void,
): Promise<Emulator> {
  const worker = new Worker(new URL("./emulator-worker.ts", import.meta.url), { workerData: { port, dir } });
  // Listen from the start: "exit" is emitted only once, also for a worker that has crashed before stop() is called.
  const exited = new Promise<number>((resolve) => worker.once("exit", resolve));
  const listeningPort = await waitUntilListening(worker, exited, port);
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

  return { endpoint: `http://127.0.0.1:${listeningPort}`, stop };
}

/** @returns the port */
async function waitUntilListening(worker: Worker, exited: Promise<number>, port: number): Promise<number> {
  try {
    const ended = exited.then((code) => Promise.reject(new Error(`it ended with code ${code}`)));
    const [message] = await Promise.race([once(worker, "message"), ended]);
    ended.catch(() => {});
    return message.port;
  } catch (error) {
    const message = messageOf(error);
    const command = `AWS_ENDPOINT_URL=http://127.0.0.1:${port} AWS_REGION=us-east-1 AWS_ACCESS_KEY_ID=any AWS_SECRET_ACCESS_KEY=any PORT=8001 bun run start`;
    const advice = `Stop that program, set EMBEDDED_QUEUE_PORT to another port, or use its queue: ${command}`;
    const reason = /EADDRINUSE|in use/.test(message)
      ? `127.0.0.1:${port} is in use, perhaps by another instance of this program. ${advice}`
      : `${message}. Check DATA_DIR`;
    throw new Error(`Cannot start the embedded queue: ${reason}`, { cause: error });
  }
}
