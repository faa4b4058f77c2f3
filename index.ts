import { Registry } from "prom-client";
import { type Config, ConfigError, readConfig } from "./config.ts";
import { startPool } from "./consumer/pool.ts";
import { createLog, type Log } from "./log.ts";
import { type Emulator, startEmulator } from "./queue/emulator.ts";
import { countRequests } from "./queue/metrics.ts";
import { openQueue } from "./queue/queue.ts";
import { locateQueue } from "./queue/setup.ts";
import type { App } from "./routes/app.ts";
import { startMonitor } from "./routes/monitor.ts";
import { openStore } from "./store/open.ts";
import { shareReads } from "./store/share.ts";

export interface Running {
  /** Where the API answers, e.g. http://127.0.0.1:8000 */
  url: string;
  queueUrl: string;
  /** The embedded queue, where there is one. */
  endpoint?: string;
  stop(): Promise<void>;
}

/**
 * Starts the whole program: opened down the list, closed up it. Rejects with one sentence when a part cannot
 * start, and has then closed the others.
 */
export async function start(config: Config, log: Log = createLog(config.log), workerFile?: URL): Promise<Running> {
  await using parts = new AsyncDisposableStack();

  // Loaded while the emulator starts: the web framework is a fifth of the start.
  const loadingApp = import("./routes/app.ts");
  const emulator = config.queue.kind === "embedded" ? await startEmulator(config.queue, crashed(log)) : undefined;
  parts.defer(async () => emulator?.stop());
  const queueAddress = await locateQueue(wantedQueue(config, emulator));

  const registry = new Registry();
  const queue = openQueue(queueAddress, countRequests(registry));
  parts.defer(() => queue.close());
  const store = await openStore(config.store);
  parts.defer(() => store.close());

  for (const msg of await store.advice()) log.warn({ event: "store_advice", msg });

  const { workers, ...consumer } = config.consumer;
  const { store: storeAddress, tracing } = config;
  const workerOptions = { queue: queueAddress, store: storeAddress, consumer, log: config.log, tracing };
  const pool = await startPool(workers, workerOptions, log, workerFile);
  parts.defer(() => pool.stop());

  const { createApp } = await loadingApp;
  const reads = shareReads(store);
  const monitor = startMonitor({ reads, depth: queue.depth, workers: pool.status, outcomes: pool.outcomes });
  parts.defer(() => monitor.stop());
  const stopping = new AbortController();
  const app = createApp({
    log,
    store,
    reads,
    monitor,
    stopping: stopping.signal,
    storeKind: config.store.kind,
    depth: queue.depth,
    workers: pool.status,
    drainSeconds: monitor.drainSeconds,
    threadMetrics: async () => [await registry.getMetricsAsJSON(), ...(await pool.metrics())],
    ...config.http,
  });
  const url = listen(app, config.http);
  parts.defer(() => stopListening(app));
  parts.defer(() => stopping.abort());

  if (!queueAddress.deadLetterUrl)
    log.warn({
      event: "no_dead_letter_queue",
      queue: queueAddress.url,
      msg: "rejected orders stay in the queue",
    });
  const closing = parts.move();
  return {
    url,
    queueUrl: queueAddress.url,
    ...(emulator && { endpoint: emulator.endpoint }),
    stop: () => closing.disposeAsync(),
  };
}

/** A request takes milliseconds; this is for a client that reads slowly. */
const HTTP_STOP_MS = 500;

/** Waits for the requests in flight, then cuts those of clients that do not end. */
async function stopListening({ server }: App) {
  await Promise.race([server?.stop(), Bun.sleep(HTTP_STOP_MS)]);
  await server?.stop(true);
}

function wantedQueue({ queue }: Config, emulator: Emulator | undefined) {
  if (queue.kind === "sqs") return { ...queue, embedded: false };
  return { name: queue.name, client: queue.client, embedded: true, ...(emulator && { endpoint: emulator.endpoint }) };
}

const crashed = (log: Log) => (error: unknown) => log.fatal({ event: "embedded_queue_crashed", error });

function listen(app: App, { host, port }: Config["http"]): string {
  try {
    app.listen({ hostname: host, port });
    return `http://${host.includes(":") ? `[${host}]` : host}:${app.server?.port}`;
  } catch (error) {
    const taken = /EADDRINUSE|in use/.test(String(error));
    const reason = taken
      ? "the port is taken. Stop what listens there, or choose another PORT"
      : (error as Error).message;
    throw new Error(`Cannot listen on ${host}:${port}: ${reason}`, { cause: error });
  }
}

/** Runs until SIGINT or SIGTERM; a start that cannot be ends with its reasons on stderr and code 1. */
export async function main(workerFile?: URL) {
  await run(workerFile).catch((error) => {
    const lines = error instanceof ConfigError ? error.problems : [error instanceof Error ? error.message : `${error}`];
    for (const line of lines) console.error(line);
    process.exit(1);
  });
}

async function run(workerFile?: URL) {
  const config = readConfig(Bun.env);
  const log = createLog(config.log);
  const running = await start(config, log, workerFile);
  let stopping = false;
  async function stop(signal: string) {
    if (stopping) return;
    stopping = true;
    log.info({ event: "stopping", signal });
    await running.stop();
    log.info({ event: "stopped" });
    process.exit(0);
  }
  for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => void stop(signal));
  // Last: whoever reads that it has started may stop it at once.
  announce(config, running, log);
}

/** What was started and where to look. */
function announce({ queue, store, consumer, http, log: { pretty } }: Config, { url, queueUrl }: Running, log: Log) {
  const embedded = [queue.kind === "embedded" && "queue", store.kind === "sqlite" && "store"].filter(Boolean);
  if (embedded.length > 0) {
    log.warn({ event: "embedded_mode", msg: `${embedded.join(" and ")} on this machine only, not for production` });
  }
  const open = !["127.0.0.1", "localhost", "::1"].includes(http.host) && !http.apiKey;
  if (open)
    log.warn({ event: "no_api_key", msg: `everybody who reaches ${http.host} can read the numbers: set API_KEY` });
  const where = {
    api: url,
    ...(http.api === "on" && { docs: `${url}/docs` }),
    queue: queueUrl,
    store: store.kind,
    workers: consumer.workers,
    // Made-up orders are for a queue of one's own.
    ...(queue.kind === "embedded" && { send_orders: "bun scripts/populate.ts" }),
  };
  if (!pretty) return log.info({ event: "started", ...where });
  const lines = Object.entries(where).map(([name, value]) => `  ${name.replace("_", " ").padEnd(12)} ${value}`);
  console.log(`\n${lines.join("\n")}\n`);
}

if (import.meta.main) await main();
