import { setImmediate } from "node:timers/promises";
import type { FullStore, UserTotals } from "../store/store.ts";
import { toAmount } from "./amount.ts";
import { csvHeaders, csvRow } from "./csv.ts";
import { fromStore, Problem } from "./problem.ts";

type Format = "ndjson" | "csv";

/** Each stream reads all users from the store. Two streams do not delay orders. */
const MAX_STREAMS = 2;
/** A client that has not read for this long is disconnected, because it blocks one of the streams. */
const STALLED_MS = 60_000;

const FIRST_LINE = { ndjson: "", csv: csvRow(["user_id", "order_count", "total_spend"]) };
const HEADERS = { ndjson: { "content-type": "application/x-ndjson" }, csv: csvHeaders("users.csv") };
const ROWS: Record<Format, (user: UserTotals) => string> = {
  ndjson: ({ userId, orders, cents }) =>
    `${JSON.stringify({ user_id: userId, order_count: orders, total_spend: toAmount(cents) })}\n`,
  csv: ({ userId, orders, cents }) => csvRow([userId, orders, toAmount(cents)]),
};

/**
 * @returns a function that returns all users as a streamed response. A page is read from the store when the client has read the
 *   page before. Throws a `Problem` with status 503 while `MAX_STREAMS` streams are open
 */
export function createUserStreams(store: Pick<FullStore, "users">) {
  let open = 0;

  return async (format: Format): Promise<Response> => {
    if (open >= MAX_STREAMS)
      throw new Problem(503, `${MAX_STREAMS} lists of users are being read, which is the limit. Try again later`);
    open++;
    const pages = store.users()[Symbol.asyncIterator]();
    let stalled: NodeJS.Timeout | undefined;
    let end = () => {
      end = () => {};
      clearTimeout(stalled);
      open--;
      void pages.return?.();
    };
    // Before the response begins, so that a store that cannot be read is a 503.
    let first: IteratorResult<UserTotals[]> | undefined = await fromStore(pages.next()).catch((error) => {
      end();
      throw error;
    });
    const encoder = new TextEncoder();
    const stream = new ReadableStream<Uint8Array>(
      {
        start: (controller) => controller.enqueue(encoder.encode(FIRST_LINE[format])),
        async pull(controller) {
          clearTimeout(stalled);
          try {
            const { done, value: users = [] } = first ?? (await pages.next());
            first = undefined;
            await setImmediate(); // Let other requests run between pages.
            if (done) {
              end();
              return controller.close();
            }
            controller.enqueue(encoder.encode(users.map(ROWS[format]).join("")));
            stalled = setTimeout(() => {
              end();
              controller.error(new Error("The client stopped reading"));
            }, STALLED_MS);
          } catch (error) {
            // Without the final chunk, the client detects that the list is incomplete.
            end();
            controller.error(error);
          }
        },
        cancel: () => end(),
      },
      { highWaterMark: 1 },
    );
    return new Response(stream, { headers: { ...HEADERS[format], "cache-control": "no-store" } });
  };
}
