import { parentPort } from "node:worker_threads";

/** The real consumer, which tells at the stop what modules it has loaded. */
parentPort?.once("message", () => {
  console.log(JSON.stringify({ event: "modules_loaded", modules: Object.keys(require.cache) }));
});
await import("../../consumer/worker.ts");
