import { Elysia } from "elysia";
import type { Monitor } from "./monitor.ts";
import { operation } from "./openapi.ts";
import { Problem } from "./problem.ts";

/** Each is a socket and a buffer; a fleet of wall screens has a hundred. */
const MAX_STREAMS = 1_000;
/** What a reader may have waiting here, bytes, besides what the network's own buffers hold: some hundred events. */
const MAX_WAITING = 64 * 1024;
/** When a browser comes back after its stream has ended. */
const RETRY_MS = 1_000;
const encoder = new TextEncoder();

/** Live numbers as server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html). */
export function eventRoutes({ monitor, stopping }: { monitor: Monitor; stopping: AbortSignal }) {
  let streams = 0;

  function open(lastEventId: string | undefined): ReadableStream<Uint8Array> {
    let sinceMs = Number(lastEventId) || 0;
    let forget = () => {};
    return new ReadableStream<Uint8Array>(
      {
        start(controller) {
          const unwatch = monitor.watch((stateSince) => {
            // A reader that is this far behind is dropped: it comes back, and asks for the samples it has missed.
            if ((controller.desiredSize ?? 0) <= 0) return end();
            const state = stateSince(sinceMs);
            sinceMs = state.samples.at(-1)?.[0] ?? sinceMs;
            controller.enqueue(encoder.encode(`id: ${sinceMs}\ndata: ${JSON.stringify(state)}\n\n`));
          });
          controller.enqueue(encoder.encode(`retry: ${RETRY_MS}\n\n`));
          streams++;
          forget = () => {
            forget = () => {};
            streams--;
            unwatch();
            stopping.removeEventListener("abort", end);
          };
          function end() {
            forget();
            controller.close();
          }
          stopping.addEventListener("abort", end);
        },
        cancel: () => forget(),
      },
      new ByteLengthQueuingStrategy({ highWaterMark: MAX_WAITING }),
    );
  }

  return new Elysia({ name: "events" }).get(
    "/events",
    ({ headers }) => {
      if (streams >= MAX_STREAMS) throw new Problem(503, `At most ${MAX_STREAMS} streams at a time: close one`);
      return new Response(open(headers["last-event-id"]), { headers: HEADERS });
    },
    { detail: eventsDetail },
  );
}

const HEADERS = {
  "content-type": "text/event-stream",
  "cache-control": "no-store",
  // A proxy that gathers bytes would turn live into late.
  "x-accel-buffering": "no",
};

const eventsDetail = operation({
  tag: "stats",
  summary: "The live numbers, as server-sent events",
  description:
    "An event at every change, at most four a second, and at least one every two seconds. Its `data` is the whole state " +
    "as JSON, with the samples that are new; `Last-Event-ID` asks for those of the last five minutes that were missed. " +
    "A reader that does not keep up is cut off.",
  parameters: [
    {
      name: "Last-Event-ID",
      in: "header",
      required: false,
      description: "The id of the last event received",
      schema: { type: "string" },
    },
  ],
  contentType: "text/event-stream",
  schema: { type: "string" },
  example:
    'id: 1734084000000\ndata: {"as_of":"2024-12-13T10:00:00.000Z","total_orders":100,"total_revenue":15750.5,…}\n\n',
  problems: [503],
});
