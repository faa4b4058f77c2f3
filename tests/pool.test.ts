import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { pathToFileURL } from "node:url";
import pino from "pino";
import { startPool } from "../consumer/pool.ts";
import { waitFor } from "./support/wait-for.ts";

// Real processes on a busy machine: bun's five seconds would fail a test that is only slow.
setDefaultTimeout(60_000);

const BROKEN = pathToFileURL(`${import.meta.dir}/support/broken-worker.ts`);

/** A pool of workers that fail in this way a tenth of a second after their start. */
async function brokenPool(failure: string) {
  const lines: { event: string }[] = [];
  const log = pino({}, { write: (line: string) => void lines.push(JSON.parse(line)) });
  const options = { log: { failure } } as unknown as Parameters<typeof startPool>[1];
  const pool = await startPool(1, options, log, BROKEN);
  return { pool, lines, events: () => lines.map(({ event }) => event) };
}

describe("the pool replaces a worker that", () => {
  test.each(["throw", "reject", "exit"])("ends by itself: %s", async (failure) => {
    const { pool, lines, events } = await brokenPool(failure);
    expect(pool.status()).toMatchObject([{ state: "running", sinceProgressMs: expect.any(Number) }]);
    await waitFor("two crashes", () => events().filter((event) => event === "worker_crashed").length >= 2);
    expect(lines[0]).toMatchObject({ event: "worker_crashed", worker: 1, restartInMs: 100 });
    expect(lines[1]).toMatchObject({ event: "worker_restarted", worker: 1 });
    expect(lines[2]).toMatchObject({ event: "worker_crashed", worker: 1, restartInMs: 200 });
    await pool.stop();
    expect(events()).not.toContain("worker_terminated");
  });

  test.each(["spin", "no receive"])(
    "says nothing for five seconds: %s",
    async (failure) => {
      const { pool, events } = await brokenPool(failure);
      const stuck = () => pool.status().some(({ reason }) => reason === "no report for 5 s");
      await waitFor("the status to say so", stuck, 8_000);
      await waitFor("its end and its successor", () => events().includes("worker_crashed"), 8_000);
      expect(events()).toContain("worker_stuck");
      await waitFor("a running one", () => pool.status()[0]?.state === "running");
      await pool.stop();
    },
    20_000,
  );
});

test("a worker that cannot start makes the start fail", async () => {
  const log = pino({ level: "silent" });
  const missing = startPool(2, {} as never, log, pathToFileURL("/nowhere/worker.ts"));
  await expect(missing).rejects.toThrow();
});
