import { parentPort, workerData } from "node:worker_threads";
import { startFauxqs } from "fauxqs";

/**
 * The embedded queue in its own thread: fauxqs, on loopback only. Messages are stored in SQLite, so a restart or kill -9 loses
 * none. The patch in patches/ makes fauxqs listen on one address, detect disconnected clients, keep released messages, accept
 * every Unicode character that AWS accepts, and handle message groups like AWS.
 */
const { port, dir } = workerData as { port: number; dir: string };
const server = await startFauxqs({ port, listenHost: "127.0.0.1", host: "", dataDir: dir, logger: false });

parentPort?.on("message", async () => {
  await server.stop();
  parentPort?.close();
});
parentPort?.postMessage({ port: server.port });
