import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { readConfig } from "../config.ts";
import { type Running, start } from "../index.ts";
import { acceptsCsv, csvRow } from "../routes/csv.ts";
import { openStore } from "../store/open.ts";
import { order } from "./support/orders.ts";
import { temporaryFolder } from "./support/program.ts";
import { waitFor } from "./support/wait-for.ts";

// Real processes on a busy machine: bun's five seconds would fail a test that is only slow.
setDefaultTimeout(60_000);

const USERS = 50_000;
let api: Running;
beforeAll(async () => {
  const dir = temporaryFolder();
  const store = await openStore({ kind: "sqlite", path: join(dir, "orders.db") });
  for (let from = 0; from < USERS; from += 1000)
    await store.record(
      Array.from({ length: 1000 }, (_, index) => order({ userId: `user-${from + index}`, cents: from })),
    );
  await store.close();
  const env = { PORT: "0", EMBEDDED_QUEUE_PORT: "0", CONSUMER_WORKERS: "0", LOG_LEVEL: "silent", DATA_DIR: dir };
  api = await start(readConfig(env));
});
afterAll(() => api.stop());

const open = (signal?: AbortSignal) => fetch(`${api.url}/users`, { ...(signal && { signal }) });

test("every user comes once, page after page", async () => {
  const lines = (await (await open()).text()).trimEnd().split("\n");
  const ids = lines.map((line) => JSON.parse(line).user_id);
  expect([ids.length, new Set(ids).size]).toEqual([USERS, USERS]);
  expect(JSON.parse(lines.find((line) => line.includes('"user-1000"')) ?? "")).toEqual({
    ...{ user_id: "user-1000", order_count: 1, total_spend: 10 },
  });
});

test("two lists at a time; a third gets a 503 until one has ended", async () => {
  const leave = new AbortController();
  const [first, second] = await Promise.all([open(leave.signal), open()]);
  const readers = [first, second].map((response) => response.body?.getReader());
  for (const reader of readers) await reader?.read();
  const third = await open();
  expect([third.status, third.headers.get("retry-after")]).toEqual([503, "2"]);
  expect(await third.json()).toMatchObject({
    detail: "2 lists of users are being read, which is the limit. Try again later",
  });
  leave.abort();
  await waitFor("a free place", async () => {
    const response = await open();
    await response.body?.cancel();
    return response.status === 200;
  });
  await readers[1]?.cancel();
});

test("a client that does not read costs no memory, and other requests are served", async () => {
  const before = process.memoryUsage().rss;
  const { promise, resolve } = Promise.withResolvers<void>();
  const socket = await Bun.connect({
    hostname: "127.0.0.1",
    port: Number(new URL(api.url).port),
    socket: { data: () => resolve() },
  });
  socket.write("GET /users HTTP/1.1\r\nHost: localhost\r\n\r\n");
  await promise;
  socket.pause();
  expect((await fetch(`${api.url}/stats/global`)).status).toBe(200);
  await Bun.sleep(500); // what it would read ahead, it reads now
  expect(process.memoryUsage().rss - before).toBeLessThan(40 * 2 ** 20);
  socket.end();
});

test.each([
  [["U1", 1, 19.99], "U1,1,19.99"],
  [['a"b', "c,d", "e\nf"], '"a""b","c,d","e\nf"'],
  [["=1+1", "+1", "-1", "@x", "\tx", "\rx"], "'=1+1,'+1,'-1,'@x,'\tx,\"'\rx\""],
  [[-5, 0], "-5,0"],
  [["", "é😀"], ",é😀"],
] as [(string | number)[], string][])("csvRow(%j)", (values, line) => {
  expect(csvRow(values)).toBe(`${line}\r\n`);
});

test.each([
  ["text/csv", true],
  ["TEXT/CSV; charset=utf-8", true],
  ["text/csv, */*", true],
  ["text/csv, */*;q=0.1", true],
  ["application/json;q=0.5, text/csv; Q=0.9", true],
  ["text/csv;q=0.5, application/json", false],
  ["text/csv;q=0.1, */*", false],
  ["application/x-ndjson, text/csv;q=0.9", false],
  ["text/csv;q=0", false],
  ["text/csv;q=many", false],
  ["text/csvx, text/*", false],
  ["text/html,application/xml;q=0.9,*/*;q=0.8", false],
  ["*/*", false],
  ["", false],
  [null, false],
])("acceptsCsv(%j) is %p", (accept, expected) => {
  expect(acceptsCsv(accept)).toBe(expected);
});
