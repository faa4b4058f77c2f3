import { Registry } from "prom-client";
import { type Config, ConfigError, EMBEDDED_QUEUE_PORT, readConfig } from "./config.ts";
import { startPool } from "./consumer/pool.ts";
import { messageOf } from "./errors.ts";
import { createLog, type Log } from "./log.ts";
import { bypassProxyForLoopback, isLoopback } from "./loopback.ts";
import { createOutageLog } from "./outage-log.ts";
import type { QueueAddress } from "./queue/client.ts";
import { type Emulator, startEmulator } from "./queue/emulator.ts";
import { countRequests } from "./queue/metrics.ts";
import { openQueue } from "./queue/queue.ts";
import { locateQueue, type QueueName } from "./queue/setup.ts";
import { watchQueue } from "./queue/watch.ts";
import type { App } from "./routes/app.ts";
import { startLive } from "./routes/live.ts";
import { watchScriptRunner } from "./script-runner.ts";
import { createDataLoss } from "./store/data-loss.ts";
import { openStore } from "./store/open.ts";
import { createSingleFlight } from "./store/single-flight.ts";
import { printable } from "./text.ts";

export interface Running {
  /** Base URL of the API, such as http://127.0.0.1:8000 */
  url: string;
  queueUrl: string;
  /** Endpoint of the embedded queue; absent when the program uses SQS. */
  endpoint?: string;
  /** Stops the program. Workers have eight seconds to finish their batches. */
  stop(): Promise<void>;
}

/**
 * Starts the whole program. Resources are opened from top to bottom and closed in reverse order.
 *
 * @param workerFile replaces the module of the consumer workers, for tests
 * @throws an Error whose message an operator can act on; everything opened before is closed
 */
export async function start(config: Config, log: Log = createLog(config.log), workerFile?: URL): Promise<Running> {
  await using resources = new AsyncDisposableStack();

  // Loading the web framework takes a fifth of the startup time: do it while the embedded queue starts.
  const loadingApp = import("./routes/app.ts");
  const emulator = config.queue.kind === "embedded" ? await startEmulator(config.queue, logCrash(log)) : undefined;
  resources.defer(async () => emulator?.stop());
  const wantedQueue = queueName(config, emulator);
  const queueAddress = await locateQueue(wantedQueue);
  logQueueWarnings(queueAddress, log);

  const registry = new Registry();
  const queue = openQueue(queueAddress, countRequests(registry));
  resources.defer(() => queue.close());
  // A marker must live longer than every copy of its message.
  const { copyLifetimeSeconds } = queueAddress;
  const { timeZone } = config;
  const storeAddress = {
    ...config.store,
    timeZone,
    ...(copyLifetimeSeconds && { windowSeconds: copyLifetimeSeconds }),
  };
  const store = await openStore(storeAddress);
  resources.defer(() => store.close());
  for (const msg of await store.configurationWarnings()) log.warn({ event: "store_advice", msg });

  const { workers, ...consumer } = config.consumer;
  const { tracing } = config;
  const workerOptions = { queue: queueAddress, store: storeAddress, consumer, log: config.log, tracing };
  const pool = await startPool(workers, workerOptions, log, workerFile);
  resources.defer(() => pool.stop());
  const isLost = () => pool.status().some(({ reason = "" }) => QUEUE_LOST.test(reason));
  const outage = createOutageLog(log, { failed: "queue_not_located", recovered: "queue_located" });
  const stopWatching = watchQueue(wantedQueue, queueAddress, isLost, outage, (address) => {
    log.info({ event: "queue_changed", queue: address.url, dead_letter_queue: address.deadLetterUrl });
    logQueueWarnings(address, log);
    // Where it was unknown at the start, the store keeps markers for the longest possible lifetime.
    if (copyLifetimeSeconds && (address.copyLifetimeSeconds ?? 0) > copyLifetimeSeconds)
      log.warn({ event: "marker_window_too_short", msg: "copies of a message live longer now: restart this program" });
    queue.relocate(address);
    pool.relocate(address);
  });
  resources.defer(stopWatching);

  const { createApp } = await loadingApp;
  const reads = createSingleFlight(store);
  const dataLoss = createDataLoss({ store, log });
  const live = startLive({
    store,
    timeZone,
    dataLoss,
    reads,
    depth: queue.depth,
    workers: pool.status,
    outcomes: pool.outcomes,
  });
  resources.defer(() => live.stop());
  const stopping = new AbortController();
  const app = createApp({
    log,
    store,
    timeZone,
    dataLoss,
    reads,
    live,
    stopping: stopping.signal,
    storeKind: config.store.kind,
    depth: queue.depth,
    workers: pool.status,
    drainSeconds: live.drainSeconds,
    threadMetrics: async () => [await registry.getMetricsAsJSON(), ...(await pool.metrics())],
    ...config.http,
  });
  const url = listen(app, config.http);
  resources.defer(() => stopListening(app));
  resources.defer(() => stopping.abort());

  const opened = resources.move();
  return {
    url,
    queueUrl: queueAddress.url,
    ...(emulator && { endpoint: emulator.endpoint }),
    stop: () => opened.disposeAsync(),
  };
}

/** The error codes of SQS for a queue that does not exist. */
const QUEUE_LOST = /QueueDoesNotExist|NonExistentQueue/;

function logQueueWarnings({ url: queue, deadLetterUrl, ...timeouts }: QueueAddress, log: Log) {
  const { shortVisibilityTimeoutSeconds: short, visibilityTimeoutSeconds } = timeouts;
  if (!deadLetterUrl) {
    const msg = "the queue has no dead-letter queue: rejected orders stay in the queue";
    log.warn({ event: "no_dead_letter_queue", queue, msg });
  }
  if (short !== undefined) {
    const msg = `the visibility timeout of the queue, ${short} s, is too short: receives ask for ${visibilityTimeoutSeconds} s`;
    log.warn({ event: "short_visibility_timeout", queue, msg });
  }
}

/** A response takes milliseconds; only a client that reads slowly needs longer. */
const HTTP_STOP_MS = 500;

/** Waits for requests in flight, then closes the connections that are still open. */
async function stopListening({ server }: App) {
  await Promise.race([server?.stop(), Bun.sleep(HTTP_STOP_MS)]);
  await server?.stop(true);
}

function queueName({ queue }: Config, emulator: Emulator | undefined): QueueName {
  if (queue.kind === "sqs") return { ...queue, embedded: false };
  return { name: queue.name, client: queue.client, embedded: true, ...(emulator && { endpoint: emulator.endpoint }) };
}

const logCrash = (log: Log) => (error: unknown) => log.fatal({ event: "embedded_queue_crashed", error });

const LISTEN_PROBLEMS: [RegExp, string][] = [
  [/EADDRINUSE|in use/, "the port is in use. Stop the program that listens on it, or set PORT to another port"],
  [
    /EINVAL|ENOTFOUND|EAI_AGAIN|EADDRNOTAVAIL/,
    "this machine has no such address. Set HOST to one that it has, such as 127.0.0.1, or to 0.0.0.0 for all of them",
  ],
];

/** @returns the base URL */
function listen(app: App, { host, port }: Config["http"]): string {
  try {
    app.listen({ hostname: host, port });
    return `http://${host.includes(":") ? `[${host}]` : host}:${app.server?.port}`;
  } catch (error) {
    const message = messageOf(error);
    const reason = LISTEN_PROBLEMS.find(([pattern]) => pattern.test(message))?.[1] ?? message;
    throw new Error(`Cannot listen on ${host}:${port}: ${reason}`, { cause: error });
  }
}

/**
 * Runs the program until SIGINT or SIGTERM. If it cannot start, prints the reasons on stderr and exits with code 1.
 *
 * @param workerFile replaces the module of the consumer workers, for tests
 */
export async function main(workerFile?: URL) {
  await run(workerFile).catch((error) => {
    const lines = error instanceof ConfigError ? error.problems : [messageOf(error)];
    for (const line of lines) console.error(printable(line));
    process.exit(1);
  });
}

async function run(workerFile?: URL) {
  bypassProxyForLoopback();
  const config = readConfig(Bun.env);
  const log = createLog(config.log);
  const running = await start(config, log, workerFile);
  let stopping = false;
  async function stop(cause: { signal: string } | { reason: string }) {
    if (stopping) return;
    stopping = true;
    log.info({ event: "stopping", ...cause });
    await running.stop();
    log.info({ event: "stopped" });
    process.exit(0);
  }
  for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => void stop({ signal }));
  watchScriptRunner(() => void stop({ reason: "npx, npm or `bun run`, which started the program, has ended" }));
  // Log this last: a supervisor that reads it may send SIGTERM at once.
  logStarted(config, running, log);
}

/** Logs the addresses of the program, and warnings about a configuration that is not for production. */
function logStarted(
  { queue, store, timeZone, consumer, http, log: { pretty }, warnings }: Config,
  { url, queueUrl, endpoint }: Running,
  log: Log,
) {
  const embedded = [queue.kind === "embedded" && "queue", store.kind === "sqlite" && "store"].filter(Boolean);
  if (embedded.length > 0) {
    const msg = `embedded ${embedded.join(" and ")}: data is kept on this machine only, not for production`;
    log.warn({ event: "embedded_mode", msg });
  }
  for (const msg of warnings) log.warn({ event: "unknown_setting", msg });
  if (!isLoopback(http.host) && !http.apiKey)
    log.warn({ event: "no_api_key", msg: `anyone who can reach ${http.host} can read the statistics: set API_KEY` });
  const fields = {
    api: url,
    dashboard: `${url}/dashboard`,
    docs: `${url}/docs`,
    queue: queueUrl,
    store: store.kind,
    time_zone: timeZone,
    workers: consumer.workers,
    // Generated orders must not be sent to a shared queue.
    ...(endpoint && { send_orders: sendCommand(endpoint) }),
  };
  if (!pretty) return log.info({ event: "started", ...fields });
  const lines = Object.entries(fields).map(([name, value]) => `  ${name.replace("_", " ").padEnd(12)} ${value}`);
  console.log(`\norder-stats\n${lines.map(printable).join("\n")}\n`);
}

function sendCommand(endpoint: string): string {
  const { port } = new URL(endpoint);
  return `${port === `${EMBEDDED_QUEUE_PORT}` ? "" : `EMBEDDED_QUEUE_PORT=${port} `}bun scripts/populate.ts`;
}

if (import.meta.main) await main();
