import { Elysia } from "elysia";
import type { Live } from "./live.ts";
import { operation, Text } from "./openapi.ts";
import { Problem } from "./problem.ts";
import { clientOf } from "./rate-limit.ts";

/** Each stream needs a socket and a buffer. Far more than the dashboards of one shop. */
const MAX_STREAMS = 1_000;
/** Of one client address, so that one client cannot take all of them. Behind a proxy or NAT many dashboards share an address. */
const MAX_STREAMS_OF_CLIENT = 100;
/** Bytes that are buffered for a client that does not read, in addition to the network buffers: some hundred events. */
const MAX_BUFFERED_BYTES = 64 * 1024;
/** How long a browser waits before it reconnects. */
const RETRY_MS = 1_000;
const encoder = new TextEncoder();

/** @returns the route of server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html) */
export function eventRoutes({ live, stopping }: { live: Live; stopping: AbortSignal }) {
  let streams = 0;
  const streamsOf = new Map<string, number>();

  function count(client: string, change: 1 | -1) {
    streams += change;
    const ofClient = (streamsOf.get(client) ?? 0) + change;
    if (ofClient > 0) streamsOf.set(client, ofClient);
    else streamsOf.delete(client);
  }

  function open(client: string, lastEventId: string | undefined): ReadableStream<Uint8Array> {
    let sinceMs = Number(lastEventId) || 0;
    let close = () => {};
    return new ReadableStream<Uint8Array>(
      {
        start(controller) {
          const unsubscribe = live.subscribe((stateSince) => {
            // The client does not keep up: end the stream. The client reconnects and gets the samples it has missed.
            if ((controller.desiredSize ?? 0) <= 0) return end();
            const state = stateSince(sinceMs);
            sinceMs = state.samples.at(-1)?.[0] ?? sinceMs;
            controller.enqueue(encoder.encode(`id: ${sinceMs}\ndata: ${JSON.stringify(state)}\n\n`));
          });
          controller.enqueue(encoder.encode(`retry: ${RETRY_MS}\n\n`));
          count(client, 1);
          close = () => {
            close = () => {};
            count(client, -1);
            unsubscribe();
            stopping.removeEventListener("abort", end);
          };
          function end() {
            close();
            controller.close();
          }
          stopping.addEventListener("abort", end);
        },
        cancel: () => close(),
      },
      new ByteLengthQueuingStrategy({ highWaterMark: MAX_BUFFERED_BYTES }),
    );
  }

  return new Elysia({ name: "events" }).get(
    "/events",
    ({ headers, request, server }) => {
      if (streams >= MAX_STREAMS)
        throw new Problem(503, `${MAX_STREAMS} streams are open, which is the limit. Try again later`);
      const client = clientOf(request, server);
      if ((streamsOf.get(client) ?? 0) >= MAX_STREAMS_OF_CLIENT)
        throw new Problem(
          429,
          `${MAX_STREAMS_OF_CLIENT} streams of this address are open, which is the limit. Close one`,
        );
      return new Response(open(client, headers["last-event-id"]), { headers: HEADERS });
    },
    { detail: eventsDetail },
  );
}

const HEADERS = {
  "content-type": "text/event-stream",
  "cache-control": "no-store",
  // Tells proxies such as nginx not to buffer the response, which would delay events.
  "x-accel-buffering": "no",
};

const eventsDetail = operation("stats", "Live totals as server-sent events", {
  description:
    "Sends an event after every change, at most four per second, and at least one every two seconds. The `data` of an event " +
    "is the complete state as JSON with the samples since the last event. After a reconnect with `Last-Event-ID`, the first " +
    "event has the missed samples of the last five minutes. A client that does not keep up is disconnected.",
  contentType: "text/event-stream",
  response: Text(
    'id: 1734084000000\ndata: {"as_of":"2024-12-13T10:00:00.000Z","time_zone":"UTC","today":"2024-12-13","total_orders":100,"total_revenue":15750.5,…}\n\n',
  ),
  problems: [503],
});
