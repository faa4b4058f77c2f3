import { once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { text } from "node:stream/consumers";
import type { Random } from "./random.ts";

/** Ways in which SQS, or the network before it, fails. Each happens to this share of the requests while it is on. */
export const QUEUE_FAULTS = {
  refused: 1,
  reset_mid_body: 0.3,
  lost_response: 0.3,
  no_response: 0.1,
  internal_error: 0.5,
  throttled: 0.7,
  malformed_json: 0.3,
  empty_response: 0.3,
  partial_failure: 0.5,
  duplicate_delivery: 0.3,
  reordered: 1,
  visibility_expires: 0.3,
  slow: 0.5,
} as const;
export type QueueFault = keyof typeof QUEUE_FAULTS;

/** The lines of the pipeline at which a process can be killed, seen from the queue. */
export const LINES = ["after_receive", "after_record", "after_dead_letter", "after_delete"] as const;
export type Line = (typeof LINES)[number];

type Batch = { Entries?: { Id: string; ReceiptHandle?: string }[]; QueueUrl: string };
type Received = { Messages?: { MessageId: string; Body: string; ReceiptHandle: string }[] };

export interface FaultProxy {
  endpoint: string;
  /** The faults that are on. */
  faults: Set<QueueFault>;
  /** Receives take this long, one after another, as in a server with a single thread. */
  setReceiveMs(ms: number): void;
  /** Calls `kill` once, when the process behind this proxy next comes to the line. */
  killAt(line: Line, kill: () => void): void;
  /** Messages that the process received, and how many of them it or another one had received before. */
  deliveries: { all: number; repeated: number };
  stop(): void;
}

/**
 * A proxy on loopback between one process and the SQS emulator, so that each process has its own network. It finishes requests
 * whose client is gone, like LocalStack: messages that a receive finds then are invisible, and nobody has them.
 */
export async function startFaultProxy(emulator: string, random: Random, seen: Set<string>): Promise<FaultProxy> {
  const faults = new Set<QueueFault>();
  const deliveries = { all: 0, repeated: 0 };
  let receiveMs = 0;
  let lastReceive = Promise.resolve();
  let nextKill: { line: Line; kill: () => void } | undefined;

  /** Kills the process where that was asked for at this line. @returns whether it was */
  function killIfAt(line: Line): boolean {
    if (nextKill?.line !== line) return false;
    const { kill } = nextKill;
    nextKill = undefined;
    kill();
    return true;
  }

  const occurs = (fault: QueueFault) => faults.has(fault) && random.fraction() < QUEUE_FAULTS[fault];

  async function forward(action: string, body: object): Promise<{ status: number; result: Record<string, unknown> }> {
    const response = await fetch(emulator, {
      method: "POST",
      headers: { "content-type": "application/x-amz-json-1.0", "x-amz-target": `AmazonSQS.${action}` },
      body: JSON.stringify(body),
    });
    const text = await response.text();
    return { status: response.status, result: text ? JSON.parse(text) : {} };
  }

  /** Responds, or closes the connection. */
  async function handle(request: IncomingMessage, response: ServerResponse) {
    const action = `${request.headers["x-amz-target"]}`.replace("AmazonSQS.", "");
    const body = JSON.parse(await text(request)) as Batch;
    if (occurs("refused")) return request.socket.destroy();
    if (occurs("no_response")) return;
    if (occurs("internal_error")) return reply(response, 500, failure("InternalError"));
    if (occurs("throttled")) return reply(response, 400, failure("RequestThrottled"));
    // As from another proxy in between: the request did not reach SQS.
    if (occurs("empty_response")) return reply(response, 200, "");
    if (occurs("slow")) await Bun.sleep(random.between(50, 1500));
    if (action === "ReceiveMessage" && receiveMs > 0) {
      lastReceive = lastReceive.then(() => Bun.sleep(receiveMs));
      await lastReceive;
    }
    if (action === "DeleteMessageBatch" && killIfAt("after_record")) return request.socket.destroy();
    const failed = occurs("partial_failure") && body.Entries ? removeSome(body) : [];
    const { status, result } = body.Entries?.length === 0 ? { status: 200, result: {} } : await forward(action, body);
    if (failed.length > 0) (result as { Failed?: object[] }).Failed = failed;
    if (action === "ReceiveMessage") await deliver(body.QueueUrl, result as Received);
    if (killedAfter(action, body, result) || occurs("lost_response")) return request.socket.destroy();
    const whole = JSON.stringify(result);
    if (occurs("reset_mid_body")) {
      response.writeHead(200, { "content-length": whole.length * 2 });
      response.write(whole.slice(0, whole.length / 2), () => request.socket.destroy());
    } else reply(response, status, occurs("malformed_json") ? whole.slice(0, -2) : whole);
  }

  function killedAfter(action: string, { QueueUrl }: Batch, result: Received): boolean {
    if (action === "ReceiveMessage") return result.Messages !== undefined && killIfAt("after_receive");
    if (action === "DeleteMessageBatch") return killIfAt("after_delete");
    return action === "SendMessageBatch" && QueueUrl.endsWith("-dlq") && killIfAt("after_dead_letter");
  }

  /** Takes some entries out of a batch. @returns them as the failed entries of the response */
  function removeSome(body: Batch) {
    const failed = body.Entries?.filter(() => random.fraction() < 0.5) ?? [];
    body.Entries = body.Entries?.filter((entry) => !failed.includes(entry)) ?? [];
    return failed.map(({ Id }) => ({ Id, SenderFault: false, Code: "InternalError", Message: "on purpose" }));
  }

  async function deliver(QueueUrl: string, result: Received) {
    const messages = result.Messages ?? [];
    for (const { MessageId } of messages) {
      deliveries.all++;
      if (seen.has(MessageId)) deliveries.repeated++;
      seen.add(MessageId);
    }
    if (occurs("reordered")) messages.sort(() => random.fraction() - 0.5);
    if (messages.length > 0 && occurs("duplicate_delivery")) {
      const copies = messages.map(({ Body }, index) => ({ Id: `${index}`, MessageBody: Body }));
      await forward("SendMessageBatch", { QueueUrl, Entries: copies });
      deliveries.repeated += copies.length;
    }
    if (messages.length > 0 && occurs("visibility_expires")) {
      // Visible to others at once, and this receipt handle stale.
      const Entries = messages.map(({ ReceiptHandle }, index) => ({
        Id: `${index}`,
        ReceiptHandle,
        VisibilityTimeout: 0,
      }));
      await forward("ChangeMessageVisibilityBatch", { QueueUrl, Entries });
    }
  }

  // A process that is killed during a request is not an error of the proxy.
  const server = createServer(
    (request, response) => void handle(request, response).catch(() => request.socket.destroy()),
  );
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    faults,
    setReceiveMs: (ms) => {
      receiveMs = ms;
    },
    deliveries,
    killAt: (line, kill) => {
      nextKill = { line, kill };
    },
    stop: () => {
      server.closeAllConnections();
      server.close();
    },
  };
}

function reply(response: ServerResponse, status: number, body: string) {
  response.writeHead(status, { "content-type": "application/x-amz-json-1.0" });
  response.end(body);
}

const failure = (code: string) => JSON.stringify({ __type: `com.amazonaws.sqs#${code}`, message: "on purpose" });
