import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { connect } from "node:net";
import { join } from "node:path";
import { Validator } from "@seriousme/openapi-schema-validator";
import { readConfig } from "../config.ts";
import { type Running, start } from "../index.ts";
import { version } from "../package.json";
import { orderRoutes } from "../routes/orders.ts";
import { clientOf, createLimiter } from "../routes/rate-limit.ts";
import { openStore } from "../store/open.ts";
import type { HistoryOutcome, RecentOrder } from "../store/store.ts";
import { order } from "./support/orders.ts";
import { temporaryFolder, zoneOfAnotherDate } from "./support/program.ts";

// Real processes on a busy machine: bun's five seconds would fail a test that is only slow.
setDefaultTimeout(60_000);

const dir = temporaryFolder();
const config = (env: Record<string, string> = {}) =>
  readConfig({
    PORT: "0",
    EMBEDDED_QUEUE_PORT: "0",
    CONSUMER_WORKERS: "0",
    LOG_LEVEL: "silent",
    DATA_DIR: dir,
    ...env,
  });

let api: Running;
let locked: Running;
beforeAll(async () => {
  const store = await openStore({ kind: "sqlite", path: join(dir, "orders.db") });
  const corrected = { outcome: "corrected", orderId: "O2", userId: "U1", declared: 99.999, cents: 4000 } as const;
  const rejected = {
    outcome: "rejected",
    reason: "invalid_json",
    errors: [{ path: "", message: "must be JSON" }],
  } as const;
  await store.addRecent([
    { ...rejected, atMs: Date.parse("2024-12-13T10:00:00Z"), messageId: "m1" },
    { ...corrected, atMs: Date.parse("2024-12-13T10:00:00.5Z"), messageId: "m0" },
    { ...corrected, atMs: Date.parse("2024-12-13T10:00:01Z"), messageId: "m2", traceId: "ab" },
    {
      ...{ outcome: "implausible_date", atMs: Date.parse("2024-12-13T10:00:02Z"), messageId: "m3" },
      ...{ orderId: "O3", userId: "U1", day: "2062-12-13" },
    },
  ]);
  await store.record([
    order({ id: "O/1", userId: "U5678", cents: 320_075 }),
    order({ userId: "U1", cents: 1999, day: "2024-12-14" }),
    order({ userId: "a/b c😀", cents: 10 }),
  ]);
  await store.close();
  api = await start(config());
  // Not on loopback, where only loopback Hosts are accepted.
  locked = await start(config({ API_KEY: "open sesame", HOST: "0.0.0.0", DATA_DIR: temporaryFolder() }));
});
afterAll(() => Promise.all([api.stop(), locked.stop()]));

const get = (path: string, init?: RequestInit) => fetch(api.url + path, init);
const json = async (path: string) => await (await get(path)).json();

const UNKNOWN = {
  order_id: "O1",
  state: "unknown",
  detail: expect.stringContaining(
    "was not counted within the last 29 days, and no rejected order with this id is kept",
  ),
  window_days: 29,
  as_of: expect.any(String),
};
const as_of = expect.stringMatching(/^20\d\d-\d\d-\d\dT.*Z$/);

describe("responses", () => {
  test.each([
    [
      "/",
      {
        message: "Welcome to Qyrus Assignment API",
        version: "1.0.0",
        docs: "/docs",
        health: "/health",
        dashboard: "/dashboard",
      },
    ],
    ["/stats/global", { total_orders: 3, total_revenue: 3220.84, as_of }],
    ["/users/U5678/stats", { user_id: "U5678", order_count: 1, total_spend: 3200.75, as_of }],
    ["/users/nobody/stats", { user_id: "nobody", order_count: 0, total_spend: 0, as_of }],
    [`/users/${encodeURIComponent("a/b c😀")}/stats`, { user_id: "a/b c😀", order_count: 1, total_spend: 0.1, as_of }],
    [
      "/top-users?period=w&date=2024-50",
      {
        period: "w",
        date: "2024-W50",
        top_users: [
          { user_id: "U5678", order_count: 1, total_spend: 3200.75 },
          { user_id: "U1", order_count: 1, total_spend: 19.99 },
          { user_id: "a/b c😀", order_count: 1, total_spend: 0.1 },
        ],
        as_of,
      },
    ],
    [
      "/top-users?period=d&date=2024-12-14&n=1",
      { period: "d", date: "2024-12-14", top_users: [{ user_id: "U1", order_count: 1, total_spend: 19.99 }], as_of },
    ],
    ["/top-users?period=m&date=2024-11&n=1000", { period: "m", date: "2024-11", top_users: [], as_of }],
    [
      "/stats/daily?from=2024-12-12&to=2024-12-14",
      {
        from: "2024-12-12",
        to: "2024-12-14",
        days: [
          { date: "2024-12-12", total_orders: 0, total_revenue: 0 },
          { date: "2024-12-13", total_orders: 2, total_revenue: 3200.85 },
          { date: "2024-12-14", total_orders: 1, total_revenue: 19.99 },
        ],
        as_of,
      },
    ],
    ["/orders/O%2F1", { order_id: "O/1", state: "counted", window_days: 29, as_of }],
    ["/orders?order_id=O/1", { order_id: "O/1", state: "counted", window_days: 29, as_of }],
    ["/orders?order_id=O1", UNKNOWN],
    ["/users/stats?user_id=U5678", { user_id: "U5678", order_count: 1, total_spend: 3200.75, as_of }],
    ["/users/stats?user_id=a/b+c%F0%9F%98%80", { user_id: "a/b c😀", order_count: 1, total_spend: 0.1, as_of }],
    [
      "/users/U1/stats?period=m&date=2024-12",
      { user_id: "U1", order_count: 1, total_spend: 19.99, period: "m", date: "2024-12", as_of },
    ],
    [
      "/users/stats?user_id=U1&period=w&date=2024-50",
      { user_id: "U1", order_count: 1, total_spend: 19.99, period: "w", date: "2024-W50", as_of },
    ],
    [
      "/users/U1/stats?period=d&date=2024-12-13",
      { user_id: "U1", order_count: 0, total_spend: 0, period: "d", date: "2024-12-13", as_of },
    ],
    [
      "/users/nobody/stats?date=2024&period=y",
      { user_id: "nobody", order_count: 0, total_spend: 0, period: "y", date: "2024", as_of },
    ],
    ["/orders/O1", UNKNOWN],
    ["/orders/recent?outcome=duplicate", { outcome: "duplicate", orders: [], as_of }],
    [
      "/orders/recent?outcome=corrected&n=1",
      {
        outcome: "corrected",
        orders: [
          {
            at: "2024-12-13T10:00:01.000Z",
            message_id: "m2",
            order_id: "O2",
            user_id: "U1",
            declared: 99.999,
            computed: 40,
            difference: -60,
            trace_id: "ab",
          },
        ],
        as_of,
      },
    ],
    [
      "/orders/recent?outcome=rejected",
      {
        outcome: "rejected",
        orders: [
          {
            at: "2024-12-13T10:00:00.000Z",
            message_id: "m1",
            order_id: null,
            user_id: null,
            reason: "invalid_json",
            errors: [{ path: "", message: "must be JSON" }],
          },
        ],
        as_of,
      },
    ],
    [
      "/orders/recent?outcome=implausible_date",
      {
        outcome: "implausible_date",
        orders: [
          {
            at: "2024-12-13T10:00:02.000Z",
            message_id: "m3",
            order_id: "O3",
            user_id: "U1",
            date: "2062-12-13",
          },
        ],
        as_of,
      },
    ],
    ["/ready", { status: "ready" }],
    [
      "/health",
      {
        status: "healthy",
        services: { redis: "embedded", api: "running", queue: "connected", consumers: "none" },
      },
    ],
  ])("GET %s", async (path, expected) => {
    const response = await get(path);
    expect(response.status).toBe(200);
    expect(response.headers.get("content-type")).toStartWith("application/json");
    expect(await response.json()).toEqual(expected);
  });

  test("a top-users request without a date is about today", async () => {
    expect(await json("/top-users?period=d")).toMatchObject({ date: new Date().toISOString().slice(0, 10) });
  });

  test("a user's stats of a period without a date are about the current one", async () => {
    const month = new Date().toISOString().slice(0, 7);
    expect(await json("/users/U1/stats?period=m")).toMatchObject({ order_count: 0, period: "m", date: month });
  });

  test.each([
    [
      "/stats/daily?from=2024-12-12&to=2024-12-14",
      "daily-2024-12-12-to-2024-12-14.csv",
      "date,total_orders,total_revenue\r\n2024-12-12,0,0\r\n2024-12-13,2,3200.85\r\n2024-12-14,1,19.99\r\n",
    ],
    [
      "/top-users?period=w&date=2024-50&n=2",
      "top-users-2024-W50.csv",
      "user_id,order_count,total_spend\r\nU5678,1,3200.75\r\nU1,1,19.99\r\n",
    ],
    ["/top-users?period=m&date=2024-11", "top-users-2024-11.csv", "user_id,order_count,total_spend\r\n"],
  ])("GET %s as CSV", async (path, file, csv) => {
    for (const response of [await get(`${path}&format=csv`), await get(path, { headers: { accept: "text/csv" } })]) {
      expect([response.status, await response.text()]).toEqual([200, csv]);
      expect(Object.fromEntries(response.headers)).toMatchObject({
        "content-type": "text/csv; charset=utf-8; header=present",
        "content-disposition": `attachment; filename="${file}"`,
        "as-of": as_of,
        vary: "accept",
      });
    }
    for (const accept of ["*/*", "text/html,*/*;q=0.8", "text/csv;q=0.5,application/json"]) {
      const response = await get(path, { headers: { accept } });
      expect(response.headers.get("content-type")).toStartWith("application/json");
      expect(response.headers.get("vary")).toBe("accept");
    }
    const overridden = await get(`${path}&format=json`, { headers: { accept: "text/csv" } });
    expect(overridden.headers.get("content-type")).toStartWith("application/json");
    const failed = await get(`${path}&format=csv&x=1`, { headers: { accept: "text/csv" } });
    expect([failed.status, failed.headers.get("content-type")]).toEqual([422, "application/problem+json"]);
    expect(failed.headers.get("content-disposition")).toBeNull();
  });

  test("with TIME_ZONE today is the date there, which the document names", async () => {
    const timeZone = zoneOfAnotherDate();
    await using other = await startAnother({ DATA_DIR: temporaryFolder(), TIME_ZONE: timeZone });
    const date = Temporal.Now.plainDateISO(timeZone).toString();
    expect(date).not.toBe(new Date().toISOString().slice(0, 10));
    const read = async (path: string) => (await fetch(other.url + path)).json();
    expect(await read("/top-users?period=d")).toMatchObject({ date });
    expect(await read("/users/U1/stats?period=d")).toMatchObject({ date });
    expect(await read("/top-users?period=y")).toMatchObject({ date: date.slice(0, 4), as_of });
    const { info } = (await read("/docs/json")) as { info: { description: string } };
    expect(info.description).toContain(timeZone);
  });

  test("/users streams everybody, as NDJSON or CSV", async () => {
    const lines = [
      { user_id: "U1", order_count: 1, total_spend: 19.99 },
      { user_id: "U5678", order_count: 1, total_spend: 3200.75 },
      { user_id: "a/b c😀", order_count: 1, total_spend: 0.1 },
    ];
    const ndjson = await get("/users");
    expect(ndjson.headers.get("content-type")).toBe("application/x-ndjson");
    expect(
      (await ndjson.text())
        .trim()
        .split("\n")
        .map((line) => JSON.parse(line)),
    ).toEqual(lines);
    const csv = "user_id,order_count,total_spend\r\nU1,1,19.99\r\nU5678,1,3200.75\r\na/b c😀,1,0.1\r\n";
    for (const request of [get("/users?format=csv"), get("/users", { headers: { accept: "text/csv" } })]) {
      const response = await request;
      expect(response.headers.get("content-type")).toBe("text/csv; charset=utf-8; header=present");
      expect(await response.text()).toBe(csv);
    }
    expect((await get("/users?format=ndjson", { headers: { accept: "text/csv" } })).headers.get("content-type")).toBe(
      "application/x-ndjson",
    );
  });

  test("the dashboard is sent once to whoever has it", async () => {
    const etag = (await get("/dashboard")).headers.get("etag") ?? "";
    const again = await get("/dashboard", { headers: { "if-none-match": etag } });
    expect([again.status, again.headers.get("etag"), await again.text()]).toEqual([304, etag, ""]);
    expect((await get("/dashboard", { headers: { "if-none-match": '"other"' } })).status).toBe(200);
  });

  test("HEAD responds like GET without a body", async () => {
    const response = await get("/stats/global", { method: "HEAD" });
    expect([response.status, await response.text()]).toEqual([200, ""]);
  });
});

test.each(["/users/stats?user_id=/docs/", "/orders?order_id=a/dashboard/"])(
  "an id that ends like the address of a page is no redirect: %s",
  async (path) => {
    expect((await get(path, { redirect: "manual" })).status).toBe(200);
  },
);

test.each([
  ["/dashboard/", "../dashboard"],
  ["/docs/", "../docs"],
  ["/dashboard/?period=m", "../dashboard?period=m"],
])("the page %s redirects to the one whose files have the right paths", async (path, location) => {
  const response = await get(path, { redirect: "manual" });
  expect([response.status, response.headers.get("location")]).toEqual([308, location]);
});

test("users and orders can be asked for whose ids a path cannot hold, and those of other bytes are others", async () => {
  const dir = temporaryFolder();
  const ids = [".", "..", "%2e%2e", "recent", "stats", "a+b", "a&b=c", "é", "é".normalize("NFD")];
  const store = await openStore({ kind: "sqlite", path: join(dir, "orders.db") });
  await store.record(ids.map((id, index) => order({ id, userId: id, cents: index + 1 })));
  await store.close();
  await using other = await startAnother({ DATA_DIR: dir });
  const read = async (path: string) => (await fetch(other.url + path)).json();
  for (const [index, id] of ids.entries()) {
    const inPercent = [...Buffer.from(id)].map((byte) => `%${byte.toString(16)}`).join("");
    for (const value of [encodeURIComponent(id), inPercent]) {
      const user = { user_id: id, order_count: 1, total_spend: (index + 1) / 100, as_of };
      expect(await read(`/users/stats?user_id=${value}`)).toEqual(user);
      expect(await read(`/orders?order_id=${value}`)).toMatchObject({ order_id: id, state: "counted" });
    }
  }
});

test("ids that a spreadsheet would take for formulas or columns are harmless in every CSV", async () => {
  const dir = temporaryFolder();
  const ids = ["=1+1", "+1", "-1", "@x", "\tx", "\rx", 'a"b', "c,d", "e\nf"];
  const store = await openStore({ kind: "sqlite", path: join(dir, "orders.db") });
  await store.record(ids.map((userId, index) => order({ userId, cents: 1000 - index })));
  await store.close();
  await using other = await startAnother({ DATA_DIR: dir });
  const cells = ["'=1+1", "'+1", "'-1", "'@x", "'\tx", '"\'\rx"', '"a""b"', '"c,d"', '"e\nf"'];
  const rows = cells.map((cell, index) => `${cell},1,${(1000 - index) / 100}`);
  const read = async (path: string) => (await fetch(other.url + path)).text();
  const top = await read("/top-users?period=d&date=2024-12-13&format=csv");
  expect(top).toBe(["user_id,order_count,total_spend", ...rows, ""].join("\r\n"));
  const all = await read("/users?format=csv");
  for (const row of rows) expect(all).toContain(`\r\n${row}\r\n`);
});

test("an order's state is followed by what is known about it", async () => {
  const dir = temporaryFolder();
  const store = await openStore({ kind: "sqlite", path: join(dir, "orders.db") });
  const now = Date.now();
  const at = (ms: number) => new Date(now + ms).toISOString();
  const add = (orderId: string, outcome: HistoryOutcome, count: number, details: Partial<RecentOrder>[]) => {
    const latest = details.map((more, index) => ({
      ...more,
      outcome,
      messageId: `${outcome}${index}`,
      atMs: now + index,
    }));
    return store.addHistory([{ outcome, orderId, count, latest }]);
  };
  const errors = [{ path: "/items/0/quantity", message: "must be an integer of at least 1, is 0" }];
  const corrected = { userId: "U1", declared: 99.99, cents: 4000, traceId: "ab" };
  const rejected = { userId: "U1", reason: "invalid_order", errors };
  await store.record([order({ id: "corrected" }), order({ id: "fixed" }), order({ id: "sent again" })]);
  await add("corrected", "corrected", 1, [corrected]);
  await add("rejected", "rejected", 7, [{ reason: "value_mismatch" }, rejected]);
  await add("fixed", "rejected", 1, [rejected]);
  await add("fixed", "corrected", 1, [corrected]);
  await add("fixed", "duplicate", 2, [{}]);
  await add("sent again", "duplicate", 3, [{}]);
  await add("forgotten", "duplicate", 3, [{}]);
  await store.close();
  await using other = await startAnother({ DATA_DIR: dir });

  const message = (outcome: string, ms = 0) => ({ at: at(ms), message_id: `${outcome}${ms}`, user_id: "U1" });
  const correction = { ...message("corrected"), declared: 99.99, computed: 40, difference: -59.99, trace_id: "ab" };
  const rejection = { reason: "invalid_order", errors };
  const other_reason = { at: at(0), message_id: "rejected0", user_id: null, reason: "value_mismatch", errors: [] };
  const latest = [{ ...message("rejected", 1), ...rejection }, other_reason];
  const expected = {
    corrected: { state: "corrected", ...correction },
    rejected: { state: "rejected", ...latest[0], rejections: { count: 7, latest } },
    fixed: {
      state: "corrected",
      ...correction,
      rejections: { count: 1, latest: [{ ...message("rejected"), ...rejection }] },
      duplicates: { count: 2, last_at: at(0) },
    },
    "sent again": { state: "counted", duplicates: { count: 3, last_at: at(0) } },
    forgotten: { state: "counted", duplicates: { count: 3, last_at: at(0) } },
  };
  for (const [id, known] of Object.entries(expected)) {
    const response = await fetch(`${other.url}/orders/${encodeURIComponent(id)}`);
    expect(await response.json()).toEqual({ order_id: id, ...known, window_days: expect.any(Number), as_of });
  }
});

test("where markers live for a day, an unknown order was not counted within the last day", async () => {
  const store = await openStore({ kind: "sqlite", path: join(temporaryFolder(), "orders.db"), windowSeconds: 86_400 });
  const response = await orderRoutes({ store }).handle(new Request("http://localhost/orders/nobody's"));
  const { window_days, detail } = (await response.json()) as Record<string, unknown>;
  expect(window_days).toBe(1);
  expect(detail).toStartWith("It was not counted within the last day, and");
  await store.close();
});

describe("problems", () => {
  test.each([
    ["/nope", 404, "/nope does not exist. See /docs"],
    ["/users//stats", 404, "/users//stats does not exist"],
    ["/docs/package.json", 404, "/docs/package.json does not exist"],
    ["/users/%ff/stats", 400, "not percent-encoded"],
    ["/orders/%ff", 400, "not percent-encoded"],
    ["/users/stats?user_id=%ff", 400, "not percent-encoded"],
    ["/orders?order_id=%ff", 400, "not percent-encoded"],
    ["/users/stats", 422, "user_id is required"],
    ["/users/stats?user_id=", 422, "user_id is required"],
    ["/orders", 422, "order_id is required"],
    ["/orders/recent", 422, "outcome must be corrected, rejected, duplicate or implausible_date"],
    ["/orders/recent?outcome=counted", 422, "outcome must be corrected, rejected, duplicate or implausible_date"],
    ["/orders/recent?outcome=rejected&n=101", 422, "n must be an integer from 1 to 100"],
    ["/users?format=xml", 422, "format must be ndjson or csv"],
    ["/top-users?period=d&format=ndjson", 422, "format must be json or csv"],
    ["/users/U1/stats?date=2024-12", 422, "date requires period, which must be one of d (day), w (ISO week)"],
    ["/users/stats?user_id=U1&date=2024-12", 422, "date requires period"],
    ["/users/U1/stats?period=q", 422, "period must be one of d (day), w (ISO week), m (month), y (year)"],
    ["/users/U1/stats?period=", 422, "period must be one of d"],
    ["/users/U1/stats?period=m&date=2024-13", 422, 'With period=m, date must be a month, YYYY-MM: got "2024-13"'],
    ["/users/U1/stats?period=m&date=", 422, "date must be a month"],
    ["/users/%ff/stats?period=m", 400, "not percent-encoded"],
    ["/top-users?perod=m", 422, 'Unknown query parameter "perod": this route has period, date, n, format'],
    ["/top-users/?period=m&%6E%32=5", 422, 'Unknown query parameter "n2"'],
    ["/top-users?period=m&__proto__=1", 422, 'Unknown query parameter "__proto__"'],
    ["/top-users?period=m&=1", 422, 'Unknown query parameter ""'],
    ["/top-users?period=m&date=2024-12&date=2024-11", 422, "date is given twice"],
    ["/top-users?period=m&peri%6Fd=m", 422, "period is given twice"],
    ["/stats/global?a&b=1&a", 422, 'Unknown query parameter "a", "b": this route has no query parameters'],
    ["/nope?x=1", 404, "/nope does not exist"],
    ["/dashboard/page.ts", 404, "/dashboard/page.ts does not exist"],
    ["/top-users", 422, "period must be one of d (day), w (ISO week), m (month), y (year)"],
    ["/top-users?period=x&date=2024", 422, "period must be one of d"],
    ["/top-users?period=d&date=2024-02-30", 422, 'With period=d, date must be a date, YYYY-MM-DD: got "2024-02-30"'],
    ["/top-users?period=w&date=2024-53", 422, "date must be an ISO week"],
    ["/top-users?period=m&date=2024-13", 422, "date must be a month"],
    ["/top-users?period=y&date=", 422, "date must be a year"],
    ["/top-users?period=y&date=2024&n=0", 422, "n must be an integer from 1 to 1000"],
    ["/top-users?period=y&date=2024&n=1001", 422, "n must be an integer from 1 to 1000"],
    ["/top-users?period=y&date=2024&n=1.5", 422, "n must be an integer from 1 to 1000"],
    ["/top-users?period=y&date=2024&n=ten", 422, "n must be an integer from 1 to 1000"],
    ["/top-users?period=y&date=2024&n=0x10", 422, "n must be an integer from 1 to 1000"],
    ["/top-users?period=y&date=2024&n=+5", 422, "n must be an integer from 1 to 1000"],
    ["/stats/daily", 422, "from is required"],
    ["/stats/daily?from=2024-12-13", 422, "to is required"],
    ["/stats/daily?from=2024-12-13&to=tomorrow", 422, 'to must be a date, YYYY-MM-DD: got "tomorrow"'],
    ["/stats/daily?from=2024-12-14&to=2024-12-13", 422, "from must not be after to"],
    ["/stats/daily?from=2023-01-01&to=2024-12-13", 422, "at most 400 days: got 713"],
    ["/stats/daily?from=0001-01-01&to=9999-12-31", 422, "at most 400 days"],
  ])("GET %s is %i", async (path, status, detail) => {
    const response = await get(path);
    expect(response.status).toBe(status);
    expect(response.headers.get("content-type")).toBe("application/problem+json");
    const problem = (await response.json()) as Record<string, unknown>;
    expect(problem).toMatchObject({ type: "about:blank", status });
    expect(problem.title).toBeString();
    expect(problem.detail).toContain(detail);
  });

  test("every route of the documentation refuses a parameter that it does not have, and one that is given twice", async () => {
    const { paths } = (await json("/docs/json")) as {
      paths: Record<string, { get: { parameters?: { in: string; name: string }[]; responses: object } }>;
    };
    for (const [path, operation] of Object.entries(paths)) {
      const url = path.replace(/\{\w+\}/, "x");
      const parameters = operation.get.parameters?.filter((parameter) => parameter.in === "query") ?? [];
      const names = parameters.map(({ name }) => name);
      const unknown = await get(`${url}?cb=1`);
      expect([path, unknown.status]).toEqual([path, 422]);
      const has = names.length > 0 ? `this route has ${names.join(", ")}` : "this route has no query parameters";
      expect(await unknown.json()).toMatchObject({ detail: `Unknown query parameter "cb": ${has}` });
      for (const name of names) {
        const repeated = await get(`${url}?${name}=x&${name}=x`);
        expect([path, repeated.status]).toEqual([path, 422]);
        expect(await repeated.json()).toMatchObject({ detail: `${name} is given twice` });
      }
      if (names.length > 0) expect(Object.keys(operation.get.responses)).toContain("422");
    }
  });

  test("pages accept any parameter, and so does an empty query", async () => {
    for (const path of [
      "/dashboard?user=U1",
      "/docs?x=1",
      "/docs/json?x=1",
      "/docs/start.js?x=1&x=1",
      "/health?",
      "/?",
    ])
      expect([path, (await get(path)).status]).toEqual([path, 200]);
  });

  test("a wrong method is 405 and names the right one", async () => {
    for (const path of ["/stats/global", "/orders/recent"]) {
      const response = await get(path, { method: "DELETE" });
      expect([response.status, response.headers.get("allow")]).toEqual([405, "GET"]);
      expect(response.headers.get("content-type")).toBe("application/problem+json");
    }
  });

  test("a body that no route asks for is refused when it is large", async () => {
    expect((await get("/stats/global", { method: "POST", body: "x".repeat(100_000) })).status).toBe(413);
  });

  test("a broken body is no server error", async () => {
    const init = { method: "POST", body: "{", headers: { "content-type": "application/json" } };
    expect((await get("/stats/global", init)).status).toBe(405);
  });
});

describe("with API_KEY", () => {
  const ask = (path: string, authorization?: string) =>
    fetch(locked.url + path, authorization ? { headers: { authorization } } : {});

  test.each(["/", "/health", "/ready"])("%s is open", async (path) => {
    expect((await ask(path)).status).toBe(200);
  });

  test.each([
    "/stats/global",
    "/users/U1/stats",
    "/metrics",
    "/docs",
    "/docs/json",
    "/stats/global/",
    "/dashboard",
    "/events",
  ])("%s asks for it", async (path) => {
    const refused = await ask(path);
    expect(refused.status).toBe(401);
    expect(refused.headers.get("www-authenticate")).toBe("Bearer");
    const page = await fetch(locked.url + path, { headers: { accept: "text/html,*/*" } });
    expect(page.headers.get("www-authenticate")).toBe('Basic realm="order statistics", charset="UTF-8"');
    expect(refused.headers.get("content-type")).toBe("application/problem+json");
    expect((await ask(path, "Bearer wrong")).status).toBe(401);
    expect((await ask(path, "Bearer open sesame")).status).not.toBe(401);
    expect((await ask(path, `Basic ${btoa("anybody:open sesame")}`)).status).not.toBe(401);
    expect((await ask(`${path}?unknown=1`)).status).toBe(401);
  });
});

/** The beginning of an answer to bytes as they are. */
async function raw(url: string, request: string, localAddress?: string): Promise<string> {
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  const { hostname, port } = new URL(url);
  const socket = connect({ host: hostname, port: Number(port), ...(localAddress && { localAddress }) });
  socket.once("data", (data) => resolve(`${data}`)).once("error", reject);
  socket.write(request);
  const answer = await promise;
  socket.destroy();
  return answer;
}

describe("a request whose URL can be read in two ways", () => {
  test.each([
    "GET /ready?/stats/global HTTP/1.1\r\nHost: app\r\n\r\n",
    "GET /ready?/metrics HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET /ready?aaaaa/docs/json HTTP/1.0\r\n\r\n",
    "GET /ready#/metrics HTTP/1.1\r\nHost: app\r\n\r\n",
    "GET //ready/../stats/global HTTP/1.1\r\nHost: app\r\n\r\n",
  ])("does not get past the key: %j", async (request) => {
    const answer = await raw(locked.url, request);
    expect(answer).toMatch(/^HTTP\/1\.1 (200|400|401|404|422) /);
    // The only thing that is open there.
    if (answer.includes(" 200 ")) expect(answer).toEndWith('{"status":"ready"}');
    expect(await raw(api.url, request)).not.toMatch(/^HTTP\/1\.1 5\d\d /);
  });

  test("a request without Host is answered, as some load balancers send it", async () => {
    expect(await raw(locked.url, "GET /health HTTP/1.0\r\n\r\n")).toContain(" 200 ");
  });
});

describe("documentation", () => {
  test("the page asks nobody else for anything, and everything it asks for is there", async () => {
    const page = await get("/docs");
    expect(page.headers.get("content-type")).toStartWith("text/html");
    expect(page.headers.get("content-security-policy")).toContain("default-src 'self'");
    expect(page.headers.get("content-security-policy")).toContain("frame-ancestors 'none'");
    expect(page.headers.get("x-content-type-options")).toBe("nosniff");
    const html = await page.text();
    const links = [...html.matchAll(/(?:src|href)="([^"]+)"/g)].map(([, link]) => link ?? "");
    expect(links.length).toBeGreaterThanOrEqual(3);
    for (const link of links) {
      const url = new URL(link, `${api.url}/docs`);
      expect(url.origin).toBe(api.url);
      const asset = await fetch(url);
      expect(asset.status, link).toBe(200);
      expect((await asset.arrayBuffer()).byteLength).toBeGreaterThan(50);
    }
  });

  test("the document is valid OpenAPI", async () => {
    const { valid, errors } = await new Validator().validate((await json("/docs/json")) as Record<string, unknown>);
    expect(errors).toBeUndefined();
    expect(valid).toBe(true);
  });

  test("the document names every route with a summary, an example and its problems", async () => {
    const document = (await json("/docs/json")) as {
      info: { version: string };
      paths: Record<string, Record<string, Operation>>;
      tags: { name: string }[];
    };
    expect(document.info.version).toBe(version);
    expect(Object.keys(document.paths).sort()).toEqual([
      "/",
      "/events",
      "/health",
      "/metrics",
      "/orders",
      "/orders/recent",
      "/orders/{order_id}",
      "/ready",
      "/stats/daily",
      "/stats/global",
      "/top-users",
      "/users",
      "/users/stats",
      "/users/{user_id}/stats",
    ]);
    expect(document.paths["/stats/global"]?.get?.responses["401"]).toBeDefined();
    for (const path of ["/stats/daily", "/top-users", "/users"]) {
      const { example } = document.paths[path]?.get?.responses["200"]?.content?.["text/csv"] ?? {};
      expect(example).toMatch(/^\w+,\w+,\w+\r\n[\w-]+,25,3200.75\r\n$/);
    }
    expect(document.paths["/health"]?.get?.responses["401"]).toBeUndefined();
    for (const operation of Object.values(document.paths).flatMap((methods) => Object.values(methods))) {
      expect(operation.summary).toBeString();
      const [[type, content] = []] = Object.entries(operation.responses["200"]?.content ?? {});
      expect(content?.example).toBeDefined();
      expect(content?.schema).toBeDefined();
      // For generated clients each JSON response is a component with a name.
      if (type === "application/json") expect(content?.schema?.$ref).toMatch(/^#\/components\/schemas\/[A-Z]\w+$/);
      expect(document.tags.map(({ name }) => name)).toContain(operation.tags[0] ?? "");
    }
  });
});

interface Operation {
  tags: string[];
  summary: string;
  responses: Record<string, { content?: Record<string, { example?: unknown; schema?: { $ref?: string } }> }>;
}

test("a second program on the same port fails with one sentence", async () => {
  const port = new URL(api.url).port;
  await expect(start(config({ PORT: port, DATA_DIR: temporaryFolder() }))).rejects.toThrow(
    `Cannot listen on 127.0.0.1:${port}: the port is in use`,
  );
});

test("metrics are in Prometheus' format, with the names of the contract", async () => {
  await get("/users/U1/stats");
  await get("/nope");
  const response = await get("/metrics");
  expect(response.headers.get("content-type")).toStartWith("text/plain");
  const text = await response.text();
  expect(text).toMatch(
    /^http_request_duration_seconds_count\{route="\/users\/:user_id\/stats",method="GET",status="200"\} \d+$/m,
  );
  expect(text).toMatch(/^http_request_duration_seconds_count\{route="unknown",method="GET",status="404"\} \d+$/m);
  expect(text).toMatch(/^queue_messages\{state="(visible|in_flight|dead_letter)"\} 0$/m);
  expect(text).toMatch(/^consumer_workers\{state="running"\} 0$/m);
  expect(text).toMatch(/^process_cpu_seconds_total \d/m);
  expect(text).toMatch(/^process_start_time_seconds \d/m);
  expect(text).toMatch(/^sqs_requests_total\{action="GetQueueAttributes"\} [1-9]/m);
  for (const line of text.split("\n")) {
    expect(line).toMatch(
      /^$|^# (HELP|TYPE) \w+ .+$|^\w+(\{(\w+="[^"]*",?)+\})? -?(\d+(\.\d+)?(e[+-]?\d+)?|\+Inf|NaN)$/,
    );
  }
});

test("credentials in another form than Bearer or Basic with a password are refused", async () => {
  for (const authorization of ["open sesame", `Basic ${btoa("open sesame:")}`, "Bearer"])
    expect((await fetch(`${locked.url}/stats/global`, { headers: { authorization } })).status).toBe(401);
});

/** Starts a program that stops at the end of the test. */
async function startAnother(env: Record<string, string>) {
  const running = await start(config({ DATA_DIR: temporaryFolder(), ...env }));
  return Object.assign(running, { [Symbol.asyncDispose]: () => running.stop() });
}

const PROBES = ["/", "/ready", "/health"];

async function expectTooMany(response: Response) {
  expect([response.status, response.headers.get("content-type")]).toEqual([429, "application/problem+json"]);
  expect(Number(response.headers.get("retry-after"))).toBeWithin(1, 61);
  expect((await response.json()) as object).toMatchObject({ status: 429, detail: expect.stringContaining("Wait for") });
}

describe("with RATE_LIMIT", () => {
  test("a client that asks too often has to wait, probes do not", async () => {
    await using limited = await startAnother({ RATE_LIMIT: "3" });
    const statuses = [];
    for (let request = 0; request < 5; request++) statuses.push((await fetch(`${limited.url}/stats/global`)).status);
    expect(statuses).toEqual([200, 200, 200, 429, 429]);
    await expectTooMany(await fetch(`${limited.url}/stats/global?/health`));
    for (const probe of PROBES)
      for (let times = 0; times < 5; times++) expect((await fetch(limited.url + probe)).status).toBe(200);
    expect(await (await fetch(`${limited.url}/stats/global`, { method: "HEAD" })).text()).toBe("");
  });

  test.each<[string, number, RequestInit]>([
    ["/stats/global", 401, {}],
    ["/nope", 404, {}],
    ["/stats/global", 405, { method: "POST" }],
    ["/top-users", 422, { headers: { authorization: "Bearer key" } }],
    ["/users/%ff/stats", 400, { headers: { authorization: "Bearer key" } }],
  ])("%s with status %i counts as well", async (path, status, init) => {
    await using limited = await startAnother({ RATE_LIMIT: "2", API_KEY: "key" });
    const request = () => fetch(limited.url + path, init);
    expect([(await request()).status, (await request()).status]).toEqual([status, status]);
    await expectTooMany(await request());
  });

  test("each client address has its own limit, whatever X-Forwarded-For says", async () => {
    await using limited = await startAnother({ RATE_LIMIT: "1" });
    const request = (from: string, forwarded = "") =>
      raw(limited.url, `GET /stats/global HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: ${forwarded}\r\n\r\n`, from);
    expect(await request("127.0.0.1")).toContain(" 200 ");
    expect(await request("127.0.0.1", "192.0.2.7")).toContain(" 429 ");
    expect(await request("127.0.0.2")).toContain(" 200 ");
  });
});

describe("wrong keys", () => {
  const ask = ({ url }: Running, key: string | undefined, path = "/stats/global") =>
    fetch(url + path, key === undefined ? {} : { headers: { authorization: key } });

  test.each(["Bearer wrong", `Basic ${btoa("anybody:wrong")}`, "anything"])(
    "like %p cannot be tried without end: after 20, the right one has to wait as well",
    async (wrong) => {
      await using guessed = await startAnother({ API_KEY: "key" });
      const paths = ["/stats/global", "/users/U1/stats", "/top-users", "/metrics"];
      for (let guess = 0; guess < 20; guess++)
        expect((await ask(guessed, wrong, paths[guess % paths.length])).status).toBe(401);
      await expectTooMany(await ask(guessed, wrong));
      await expectTooMany(await ask(guessed, "Bearer key"));
      for (const probe of PROBES) expect((await ask(guessed, "Bearer key", probe)).status).toBe(200);
      expect((await ask(guessed, undefined)).status).toBe(401);
      const elsewhere = "GET /stats/global HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer key\r\n\r\n";
      expect(await raw(guessed.url, elsewhere, "127.0.0.2")).toContain(" 200 ");
    },
  );

  test("are not counted where a request has none, nor where there is no key", async () => {
    await using guessed = await startAnother({ API_KEY: "key" });
    for (let request = 0; request < 30; request++) expect((await ask(guessed, undefined)).status).toBe(401);
    for (let request = 0; request < 30; request++) expect((await ask(guessed, "Bearer key")).status).toBe(200);
    for (let request = 0; request < 30; request++) expect((await ask(api, "Bearer wrong")).status).toBe(200);
  });

  test("are counted in the metrics like every response", async () => {
    await using guessed = await startAnother({ API_KEY: "key", RATE_LIMIT: "2" });
    await ask(guessed, "Bearer wrong");
    const metrics = await (await ask(guessed, "Bearer key", "/metrics")).text();
    expect(metrics).toMatch(/^http_request_duration_seconds_count\{[^}]*status="401"\} 1$/m);
  });
});

test("the networks of IPv6 clients are counted, not their addresses", () => {
  const from = (address: string) =>
    clientOf(new Request("http://localhost/"), { requestIP: () => ({ address, port: 1, family: "IPv6" }) });
  expect(from("2001:db8:1:2:3:4:5:6")).toBe(from("2001:db8:1:2::9"));
  expect(from("2001:db8::1:2:3:4:5")).toBe(from("2001:db8:0:1::"));
  expect(from("2001:db8::1")).not.toBe(from("2001:db8:0:1::1"));
  expect(from("fe80::1%eth0")).toBe(from("fe80::2"));
  expect([from("::ffff:192.0.2.7"), from("::ffff:192.0.2.8")]).toEqual(["192.0.2.7", "192.0.2.8"]);
});

test("a limiter counts at most 100,000 clients, and forgets the one counted first", () => {
  const { check, add } = createLimiter(1, "Wait");
  for (let client = 0; client <= 100_000; client++) add(`${client}`);
  expect(() => check("0")).not.toThrow();
  for (const client of ["1", "100000"]) expect(() => check(client)).toThrow("Wait");
});

describe("the Host header", () => {
  const ask = (url: string, host: string, path = "/stats/global") =>
    raw(url, `GET ${path} HTTP/1.1\r\nHost: ${host}\r\n\r\n`);

  test.each([
    "rebound.example",
    "rebound.example:8000",
    "192.168.0.7",
    "127.0.0.1.nip.io",
    "localhost.example",
    "[::2]",
  ])("of a web page is refused on loopback: %s", async (host) => {
    for (const path of ["/stats/global", "/", "/health", "/events", "/nope"]) {
      const answer = await ask(api.url, host, path);
      expect(answer).toStartWith("HTTP/1.1 421 ");
      expect(answer).toContain("accepts only a loopback Host header, such as localhost");
    }
  });

  test.each(["localhost", "LOCALHOST:1", "shop.localhost:8000", "127.0.0.1:80", "127.1.2.3", "[::1]:8000", "[::1]"])(
    "of this machine is accepted on loopback: %s",
    async (host) => {
      expect(await ask(api.url, host)).toStartWith("HTTP/1.1 200 ");
    },
  );

  test("is not checked where the API does not listen on loopback", async () => {
    expect(await ask(locked.url, "shop.example", "/ready")).toStartWith("HTTP/1.1 200 ");
  });

  test("of a refused request counts in the metrics", async () => {
    await ask(api.url, "rebound.example");
    const text = await (await get("/metrics")).text();
    expect(text).toMatch(/^http_request_duration_seconds_count\{route="unknown",method="GET",status="421"\} [1-9]/m);
  });
});
