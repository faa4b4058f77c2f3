import { once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { text } from "node:stream/consumers";
import type { Random } from "./random.ts";

/** Ways in which SQS, or the network before it, fails. Each happens to this share of the requests while it is on. */
export const QUEUE_FAULTS = {
  refused: 1,
  reset_mid_body: 0.3,
  lost_reply: 0.3,
  never_answers: 0.1,
  internal_error: 0.5,
  throttled: 0.7,
  malformed_json: 0.3,
  empty_answer: 0.3,
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
  /** Calls `kill` once, when the process behind this proxy next comes to the line. */
  killAt(line: Line, kill: () => void): void;
  /** Messages handed to the process, and how many of these had been handed out before, to it or to another one. */
  deliveries: { all: number; repeated: number };
  stop(): void;
}

/** A proxy on loopback between one process and the SQS emulator, so that each process has its own network. */
export async function startFaultProxy(emulator: string, random: Random, seen: Set<string>): Promise<FaultProxy> {
  const faults = new Set<QueueFault>();
  const deliveries = { all: 0, repeated: 0 };
  let ambush: { line: Line; kill: () => void } | undefined;

  /** Whether the process has just been killed at this line. */
  function reach(line: Line): boolean {
    if (ambush?.line !== line) return false;
    const { kill } = ambush;
    ambush = undefined;
    kill();
    return true;
  }

  const strikes = (fault: QueueFault) => faults.has(fault) && random.fraction() < QUEUE_FAULTS[fault];

  async function forward(action: string, body: object): Promise<{ status: number; answer: Record<string, unknown> }> {
    const response = await fetch(emulator, {
      method: "POST",
      headers: { "content-type": "application/x-amz-json-1.0", "x-amz-target": `AmazonSQS.${action}` },
      body: JSON.stringify(body),
    });
    const text = await response.text();
    return { status: response.status, answer: text ? JSON.parse(text) : {} };
  }

  /** Answers the request, or breaks the connection off. */
  async function handle(request: IncomingMessage, response: ServerResponse) {
    const action = `${request.headers["x-amz-target"]}`.replace("AmazonSQS.", "");
    const body = JSON.parse(await text(request)) as Batch;
    if (strikes("refused")) return request.socket.destroy();
    if (strikes("never_answers")) return;
    if (strikes("internal_error")) return reply(response, 500, failure("InternalError"));
    if (strikes("throttled")) return reply(response, 400, failure("RequestThrottled"));
    // As from a proxy that knows better; nothing was done.
    if (strikes("empty_answer")) return reply(response, 200, "");
    if (strikes("slow")) await Bun.sleep(random.between(50, 1500));
    if (action === "DeleteMessageBatch" && reach("after_record")) return request.socket.destroy();
    const held = strikes("partial_failure") && body.Entries ? holdBack(body) : [];
    const { status, answer } = body.Entries?.length === 0 ? { status: 200, answer: {} } : await forward(action, body);
    if (held.length > 0) (answer as { Failed?: object[] }).Failed = held;
    if (action === "ReceiveMessage") await deliver(body.QueueUrl, answer as Received);
    if (reachedAfter(action, body, answer) || strikes("lost_reply")) return request.socket.destroy();
    const whole = JSON.stringify(answer);
    if (strikes("reset_mid_body")) {
      response.writeHead(200, { "content-length": whole.length * 2 });
      response.write(whole.slice(0, whole.length / 2), () => request.socket.destroy());
    } else reply(response, status, strikes("malformed_json") ? whole.slice(0, -2) : whole);
  }

  function reachedAfter(action: string, { QueueUrl }: Batch, answer: Received): boolean {
    if (action === "ReceiveMessage") return answer.Messages !== undefined && reach("after_receive");
    if (action === "DeleteMessageBatch") return reach("after_delete");
    return action === "SendMessageBatch" && QueueUrl.endsWith("-dlq") && reach("after_dead_letter");
  }

  /** Takes some entries out of a batch: SQS answers those as failed and does nothing with them. */
  function holdBack(body: Batch) {
    const held = body.Entries?.filter(() => random.fraction() < 0.5) ?? [];
    body.Entries = body.Entries?.filter((entry) => !held.includes(entry)) ?? [];
    return held.map(({ Id }) => ({ Id, SenderFault: false, Code: "InternalError", Message: "held back" }));
  }

  async function deliver(QueueUrl: string, answer: Received) {
    const messages = answer.Messages ?? [];
    for (const { MessageId } of messages) {
      deliveries.all++;
      if (seen.has(MessageId)) deliveries.repeated++;
      seen.add(MessageId);
    }
    if (strikes("reordered")) messages.sort(() => random.fraction() - 0.5);
    if (messages.length > 0 && strikes("duplicate_delivery")) {
      const copies = messages.map(({ Body }, index) => ({ Id: `${index}`, MessageBody: Body }));
      await forward("SendMessageBatch", { QueueUrl, Entries: copies });
      deliveries.repeated += copies.length;
    }
    if (messages.length > 0 && strikes("visibility_expires")) {
      // Visible to others at once, and this receipt handle stale.
      const Entries = messages.map(({ ReceiptHandle }, index) => ({
        Id: `${index}`,
        ReceiptHandle,
        VisibilityTimeout: 0,
      }));
      await forward("ChangeMessageVisibilityBatch", { QueueUrl, Entries });
    }
  }

  // A process that is killed in mid-request is no error of the proxy's.
  const server = createServer(
    (request, response) => void handle(request, response).catch(() => request.socket.destroy()),
  );
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    faults,
    deliveries,
    killAt: (line, kill) => {
      ambush = { line, kill };
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
