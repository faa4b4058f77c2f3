import { subscribe } from "node:diagnostics_channel";
import type { IncomingMessage } from "node:http";
import { parentPort, workerData } from "node:worker_threads";
import { startFauxqs } from "fauxqs";
import { isLoopback } from "../loopback.ts";

/**
 * The embedded queue in its own thread: fauxqs, on loopback only. Messages are stored in SQLite, so a restart or kill -9 loses
 * none. The patch in patches/ makes fauxqs listen on one address, detect disconnected clients, keep released messages, accept
 * every Unicode character that AWS accepts, and handle message groups like AWS.
 */
const { port, dir } = workerData as { port: number; dir: string };

/**
 * Whether a request is one of an SQS client on this machine. Web pages reach loopback too: their forms cannot send these headers,
 * their scripts only after an OPTIONS request, which is refused, and a page whose name resolves to 127.0.0.1 sends that name as
 * Host. Everything else that fauxqs serves (SNS, S3, STS, inspection) has other headers or paths.
 */
function isSqsRequest({ method, url, headers }: IncomingMessage): boolean {
  return (
    method === "POST" &&
    url === "/" &&
    `${headers["x-amz-target"]}`.startsWith("AmazonSQS.") &&
    `${headers["content-type"]}`.startsWith("application/x-amz-json-1.0") &&
    isLoopback(headers.host ?? "")
  );
}

const REFUSED = {
  __type: "com.amazonaws.sqs#AccessDeniedException",
  message: "The embedded queue accepts only SQS requests (AWS JSON protocol) with a loopback Host, such as 127.0.0.1",
};

interface FastifyMessage {
  fastify: { addHook(name: "onRequest", hook: (request: Request, reply: Reply) => Promise<unknown>): void };
}
type Request = { raw: IncomingMessage };
type Reply = { code(status: number): { send(body: object): unknown } };

// fauxqs has no option for this. Fastify publishes each new server here for this purpose: https://fastify.dev/docs/latest/Reference/Hooks/
subscribe("fastify.initialization", (message) => {
  (message as FastifyMessage).fastify.addHook("onRequest", async ({ raw }, reply) => {
    if (!isSqsRequest(raw)) return reply.code(403).send(REFUSED);
  });
});

const server = await startFauxqs({ port, listenHost: "127.0.0.1", host: "", dataDir: dir, logger: false });

parentPort?.on("message", async () => {
  await server.stop();
  parentPort?.close();
});
parentPort?.postMessage({ port: server.port });
