import { parentPort, workerData } from "node:worker_threads";

/** A worker that starts like a real one and soon fails in the way that its options say. */
const { failure } = workerData.log as { failure: string };
const port = parentPort;
const report = () => port?.postMessage({ sinceProgressMs: 0, metrics: [] });
report();
const reporting = setInterval(report, 50);
port?.once("message", () => {
  clearInterval(reporting);
  clearTimeout(failing);
  port.close();
});

function fail() {
  if (failure === "throw") throw new Error("thrown on purpose");
  if (failure === "reject") void Promise.reject(new Error("rejected on purpose"));
  if (failure === "exit") process.exit(0);
  if (failure === "spin") for (;;);
  if (failure === "no receive") clearInterval(reporting);
}
const failing = setTimeout(fail, 100);
