import { parentPort, workerData } from "node:worker_threads";
import { startFauxqs } from "fauxqs";

/**
 * The embedded queue in a thread of its own: fauxqs, on loopback only, its messages kept in SQLite so that none
 * is lost over a restart or kill -9. patches/ makes it listen on one address, notice clients that have gone,
 * keep released messages, take every Unicode character that AWS takes and treat message groups as AWS does.
 */
const { port, dir } = workerData as { port: number; dir: string };
const server = await startFauxqs({ port, listenHost: "127.0.0.1", host: "", dataDir: dir, logger: false });

parentPort?.on("message", async () => {
  await server.stop();
  parentPort?.close();
});
parentPort?.postMessage({ port: server.port });
