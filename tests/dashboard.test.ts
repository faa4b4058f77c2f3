import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { DeleteQueueCommand } from "@aws-sdk/client-sqs";
import type { Browser, Page } from "playwright-core";
import { createClient } from "../queue/client.ts";
import { openQueue, type Queue } from "../queue/queue.ts";
import { locateQueue } from "../queue/setup.ts";
import { openBrowser } from "./support/browser.ts";
import { body } from "./support/orders.ts";
import { eventsOf, type Program, startProgram, temporaryFolder, zoneOfAnotherDate } from "./support/program.ts";
import { freePort, startRedisServer } from "./support/redis-server.ts";
import { waitFor } from "./support/wait-for.ts";

// A real browser on a busy machine: bun's five seconds would fail a test that is only slow.
setDefaultTimeout(120_000);

const AXE = await Bun.file(require.resolve("axe-core/axe.min.js")).text();
const HOSTILE = `<img src=x onerror="document.title='hacked'">`;
const env = { PORT: `${freePort()}`, EMBEDDED_QUEUE_PORT: `${freePort()}`, DATA_DIR: temporaryFolder() };

let browser: Browser;
let program: Program;
let queue: Queue;
beforeAll(async () => {
  browser = await openBrowser();
  await startAgain();
});
afterAll(async () => {
  queue.close();
  program.kill("SIGTERM");
  await Promise.all([browser.close(), program.exited]);
});

async function startAgain() {
  program = await startProgram(env);
  const url = `${eventsOf(program.output()).find(({ event }) => event === "started")?.queue}`;
  const endpoint = new URL(url).origin;
  queue = openQueue(await locateQueue({ name: "orders-queue", url, endpoint, embedded: true }));
}

const today = () => new Date().toISOString();
/** An order of today whose items come to `value`. */
const orderOf = (user: string, value: number, more: object = {}) =>
  body({
    user_id: user,
    order_timestamp: today(),
    order_value: value,
    items: [{ product_id: "P1", quantity: 1, price_per_unit: value }],
    ...more,
  });

/** The page, and what it asked for and complained about. */
async function open({
  width = 1280,
  scheme = "light" as "light" | "dark",
  url = program.url,
  path = "dashboard",
  key = "",
} = {}) {
  const credentials = key && { httpCredentials: { username: "anybody", password: key } };
  const context = await browser.newContext({
    viewport: { width, height: 900 },
    colorScheme: scheme,
    locale: "en-US",
    ...credentials,
  });
  const page = await context.newPage();
  const asked: string[] = [];
  const complaints: string[] = [];
  page.on("request", (request) => asked.push(request.url()));
  page.on("console", (message) => message.type() === "error" && complaints.push(message.text()));
  page.on("pageerror", (error) => complaints.push(error.message));
  await page.goto(`${url}/${path}`);
  return { page, asked, complaints, [Symbol.asyncDispose]: () => context.close() };
}

const text = async (page: Page, selector: string) => (await page.locator(selector).allInnerTexts()).join("|");
const shows = (page: Page, selector: string, expected: string) =>
  waitFor(`${selector} to show ${expected}`, async () => (await text(page, selector)).includes(expected), 20_000);
const asMoney = (amount: number) => amount.toLocaleString("en-US", { minimumFractionDigits: 2 });

/** The content of the file that a link of the page downloads. */
async function downloaded(page: Page, link: string): Promise<string> {
  const download = page.waitForEvent("download");
  await page.locator(link).click();
  return await Bun.file(await (await download).path()).text();
}

// biome-ignore lint/suspicious/noExplicitAny: what the API answers is compared with the page
const api = async (path: string): Promise<any> => (await program.get(path)).json();

describe("the dashboard", () => {
  test("of a new shop shows that there is nothing yet, and how to change that", async () => {
    await using opened = await open();
    await shows(opened.page, "#welcome", "bun scripts/populate.ts");
    await shows(opened.page, "#orders", "0");
    await shows(opened.page, "#days-note", "No orders in this range");
    await shows(opened.page, "#corrected-note", "No corrected orders yet");
    await shows(opened.page, "#status", "Live");
    await shows(opened.page, "#rate", "0 per second, last 10\u00a0s");
    await shows(opened.page, "main", "No orders in the last five minutes");
    expect(await opened.page.locator("canvas:visible, thead:visible").count()).toBe(0);
    expect(await text(opened.page, "#days-note, #top-note")).toBe("No orders in this range|No orders in this period");
    expect(opened.complaints).toEqual([]);
  });

  test("shows what the API returns, follows new orders, and loads nothing from other hosts", async () => {
    await using opened = await open();
    const { page, asked, complaints } = opened;
    await shows(page, "#status", "Live");
    await queue.send([orderOf("U1", 1200.5), orderOf("U2", 30), orderOf(HOSTILE, 7.25), "no JSON"]);
    await queue.send([orderOf("U2", 40, { order_id: "ORD-99", order_value: 99.99 })]);
    await shows(page, "#orders", "4");
    const { total_revenue } = await api("/stats/global");
    expect(total_revenue).toBe(1277.75);
    await shows(page, "#revenue", asMoney(total_revenue));
    await shows(page, "#average", "319.44 per order");
    await shows(page, "#outcomes", "counted|corrected|duplicate|rejected".split("|")[0] as string);
    await waitFor("the outcomes", async () => (await text(page, "#outcomes dd")) === "3|1|0|1");
    await shows(page, "#dead", "1");
    const color = (selector: string) => page.evaluate(`getComputedStyle(document.querySelector("${selector}")).color`);
    expect(await color("#dead")).not.toBe(await color("#orders"));
    await page.getByRole("link", { name: "Recent rejected orders" }).click();
    expect(new URL(page.url()).hash).toBe("#rejected-title");
    await shows(page, "#drain", "0 in flight");
    await shows(page, "#workers", "running");

    await shows(page, "#top tbody", "U2");
    const { top_users } = await api(`/top-users?period=d`);
    const expected = top_users.map(
      (user: { user_id: string; order_count: number; total_spend: number }, rank: number) =>
        [rank + 1, user.user_id, user.order_count, asMoney(user.total_spend)].join("\t"),
    );
    expect(await page.locator("#top tbody tr").allInnerTexts()).toEqual(expected);
    await waitFor("the sum, with its time", async () =>
      /^1,277\.75 in this range, as of \d\d:\d\d:\d\d$/.test(await text(page, "#revenue-sum")),
    );
    await shows(page, "#time-zone", "UTC");
    await page.getByText("Show as table").click();
    const [first] = await page.locator("#days-table tbody tr").allInnerTexts();
    expect(first).toBe([today().slice(0, 10), 4, asMoney(total_revenue)].join("\t"));

    const days = (await downloaded(page, "#days-csv")).trimEnd().split("\r\n");
    expect([days.length, days[0], days.at(-1)]).toEqual([
      ...[31, "date,total_orders,total_revenue", `${today().slice(0, 10)},4,1277.75`],
    ]);
    const quoted = `"${HOSTILE.replaceAll('"', '""')}"`;
    const rows = ["user_id,order_count,total_spend", "U1,1,1200.5", "U2,2,70", `${quoted},1,7.25`, ""];
    expect(await downloaded(page, "#top-csv")).toBe(rows.join("\r\n"));

    await shows(page, "#corrected tbody", "ORD-99");
    expect(await text(page, "#corrected tbody time")).toMatch(/^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d$/);
    expect(await text(page, "#corrected tbody td.number")).toBe("99.99|40.00|-59.99");
    await shows(page, "#rejected tbody", "invalid_json");
    expect(await text(page, "#rejected tbody")).toContain("must be JSON");

    expect(await page.locator("#live").getAttribute("aria-label")).toMatch(
      /^Orders per second, last five minutes: now/,
    );
    expect(await page.title()).toBe("order-stats");
    expect(complaints).toEqual([]);
    expect(asked.filter((url) => !url.startsWith(`${program.url}/`) && !url.startsWith("data:"))).toEqual([]);
  });

  test("finds users and orders from the keyboard", async () => {
    await using opened = await open();
    const { page } = opened;
    await page.getByLabel("User id").focus();
    await page.keyboard.type("U2");
    await page.keyboard.press("Enter");
    await shows(page, "#user", "U2: 2 orders, 70.00 spent, 35.00 per order");
    await page.keyboard.press("Tab");
    await page.keyboard.press("Tab");
    await page.keyboard.type("ORD-99");
    await page.keyboard.press("Enter");
    await shows(page, "#order", "ORD-99 was corrected");
    await shows(page, "#order-history", "corrected: 99.99 declared, 40.00 counted");
    await page.getByLabel("Order id").fill("nobody's");
    await page.keyboard.press("Enter");
    await shows(page, "#order", "nobody's is unknown. It was not counted within the last 19 days");
    expect(await text(page, "#order-history li")).toBe("");
    const fixed = { order_id: `ORD-${HOSTILE}`, items: [] };
    await queue.send([orderOf("U3", 5, fixed)]);
    const { items: _, ...valid } = fixed;
    await page.getByLabel("Order id").fill(fixed.order_id);
    await waitFor("the rejection", async () => {
      await page.getByLabel("Order id").press("Enter");
      return (await text(page, "#order")) === `${fixed.order_id} was rejected`;
    });
    await shows(page, "#order-history", "rejected: invalid_order\n/items must be a non-empty array, is an empty array");
    await queue.send([orderOf("U3", 5, valid), orderOf("U3", 5, valid)]);
    await waitFor("the duplicate", async () => {
      await page.getByLabel("Order id").press("Enter");
      return (await text(page, "#order-history")).includes("duplicates: 1");
    });
    await shows(page, "#order", `${fixed.order_id} was counted`);
    expect(await text(page, "#order-history li div")).toMatch(/^duplicates: 1\|rejected: invalid_order/);
    await page.locator("#top").getByText(HOSTILE).click();
    await shows(page, "#user", `${HOSTILE}: 1 order, 7.25 spent`);
    const year = `${new Date().getUTCFullYear()}`;
    await page.getByText("Year", { exact: true }).click();
    await shows(page, "#top-date", year);
    await shows(page, "#user", `${HOSTILE}: 1 order, 7.25 spent, 7.25 per order (${year}); 1 order,`);
    expect(await text(page, "#order-history time")).toMatch(/^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\|/);

    const linked = await page.context().newPage();
    await linked.goto(page.url());
    await shows(linked, "#order", `${fixed.order_id} was counted`);
    await page.getByLabel("Order id").fill("");
    await page.getByLabel("User id").fill("");
    await waitFor("no results", async () => (await text(page, "#user, #order, #order-history")) === "||");
    await page.getByLabel("User id").press("Enter");
    expect(await page.locator("#user").isVisible()).toBe(false);
    expect(Object.fromEntries(new URL(page.url()).searchParams)).toEqual({ period: "y", days: "30" });
  });

  test("keeps its numbers while the process is down, shows that, and continues when it is back", async () => {
    await using opened = await open();
    const { page } = opened;
    await shows(page, "#orders", "5");
    program.kill("SIGKILL");
    await program.exited;
    await shows(page, "#status", "Reconnecting, last update");
    expect(await text(page, "#orders")).toBe("5");
    await page.getByLabel("User id").fill("U1");
    await page.keyboard.press("Enter");
    await shows(page, "#user", "The service cannot be reached");
    await shows(page, "#problems", "Check that the program is running");
    expect(await text(page, "#problems p")).not.toContain("|");
    expect(await page.locator("p.note:visible").getByText("cannot be reached").count()).toBe(0);
    await startAgain();
    await shows(page, "#status", "Live");
    await queue.send([orderOf("U1", 10)]);
    await shows(page, "#orders", "6");
    await shows(page, "#user", "U1: 2 orders");
    expect(await page.locator("#problems").isVisible()).toBe(false);
  });

  test("shows that it is stale when the process hangs", async () => {
    await using opened = await open();
    const { page } = opened;
    await shows(page, "#status", "Live");
    program.kill("SIGSTOP");
    await shows(page, "#status", "Stale, last update");
    program.kill("SIGCONT");
    await shows(page, "#status", "Live");
  });

  test("a range that is refused shows the message of the API in place of the totals", async () => {
    await using opened = await open();
    const { page } = opened;
    await shows(page, "#revenue-sum", "in this range");
    await page.getByLabel("From").fill("2020-01-01");
    await shows(page, "#days-note", "A range can have at most 400 days");
    expect(await page.locator("#revenue-sum, #revenue-days, #days-table").filter({ visible: true }).count()).toBe(0);
    await page.getByLabel("From").fill("");
    await shows(page, "#days-note", "from");
    expect(await text(page, "#days-note")).not.toContain("400 days");
  });

  test("a range without orders has a button that shows the range with orders", async () => {
    await using opened = await open();
    const { page } = opened;
    await shows(page, "#orders", "6");
    await page.getByLabel("From").fill("2019-01-01");
    await page.getByLabel("to", { exact: true }).fill("2019-02-01");
    await shows(page, "#days-note", "No orders in this range. Show the last year");
    await page.getByRole("button", { name: "Show the last year" }).click();
    await shows(page, "#orders-sum", "6 in this range");
    expect(new URL(page.url()).searchParams.get("days")).toBe("365");
    expect(await page.locator("#days-note").isVisible()).toBe(false);
  });

  test("an outage is one banner with what to do, and what was loaded stays", async () => {
    const redis = await startRedisServer();
    const own = await startProgram({ DATA_DIR: temporaryFolder(), REDIS_URL: redis.freshUrl() });
    const url = `${eventsOf(own.output()).find(({ event }) => event === "started")?.queue}`;
    const address = await locateQueue({ name: "orders-queue", endpoint: new URL(url).origin, embedded: true });
    const shop = openQueue(address);
    await shop.send([orderOf("U1", 10)]);
    await using opened = await open({ url: own.url });
    const { page } = opened;
    await shows(page, "#revenue-sum", "10.00");
    const client = createClient({ endpoint: new URL(url).origin, embedded: true });
    await client.send(new DeleteQueueCommand({ QueueUrl: address.deadLetterUrl }));
    await shows(page, "#status", "Degraded");
    await shows(
      page,
      "#problems",
      "dead-letter queue orders-queue-dlq: GetQueueAttributes failed: QueueDoesNotExist. Valid",
    );
    await shows(page, "#dead", "unknown");
    await redis.kill();
    await shows(page, "#problems", "store: not connected. Orders are kept in the queue");
    expect(await text(page, "#problems p")).toMatch(/The totals are those of \d\d:\d\d:\d\d\.\|dead-letter queue/);
    await page.getByText("Year", { exact: true }).click();
    await page.getByText("7 days", { exact: true }).click();
    await page.getByLabel("User id").fill("U1");
    await page.keyboard.press("Enter");
    await shows(page, "#user", "The store is unavailable");
    await waitFor("the other loads", () =>
      page
        .locator("#top-note.unavailable, #days-note.unavailable")
        .count()
        .then((n) => n === 2),
    );
    expect(await page.locator("p.note").getByText("unavailable").filter({ visible: true }).count()).toBe(0);
    expect(await text(page, "#revenue-sum")).toContain("10.00");
    await page.evaluate(AXE);
    const { violations } = (await page.evaluate("axe.run()")) as { violations: object[] };
    expect(violations).toEqual([]);
    await using late = await open({ url: own.url });
    await shows(late.page, "#status", "Degraded");
    expect(await text(late.page, ".note.initial")).toBe("Not loaded yet|Not loaded yet|Not loaded yet|Not loaded yet");
    expect(await late.page.locator("thead:visible").count()).toBe(0);
    shop.close();
    own.kill("SIGKILL");
    await Promise.all([own.exited, redis.stop()]);
  });

  test.each([
    [1280, "light"],
    [1280, "dark"],
    [390, "light"],
    [390, "dark"],
  ] as const)("is accessible and fits at %i px, %s", async (width, scheme) => {
    await using opened = await open({ width, scheme });
    const { page, complaints } = opened;
    await shows(page, "#orders", "6");
    await shows(page, "#rejected tbody", "invalid_json");
    await page.getByLabel("Order id").fill(`ORD-${HOSTILE}`);
    await page.keyboard.press("Enter");
    await shows(page, "#order-history", "rejected: invalid_order");
    await page.evaluate(AXE);
    const { violations } = (await page.evaluate("axe.run()")) as { violations: { id: string; impact: string }[] };
    expect(violations.map(({ id, impact }) => `${impact}: ${id}`)).toEqual([]);
    expect(await page.evaluate("document.documentElement.scrollWidth")).toBe(width);
    for (const table of await page.locator(".scroll").all())
      expect(await table.evaluate((element) => element.scrollWidth - element.clientWidth)).toBe(0);
    expect(complaints).toEqual([]);
  });

  test("the user that was found follows the period, and the URL keeps user, period and range", async () => {
    await queue.send([orderOf("U&=é", 30, { order_timestamp: "2020-02-29T10:00:00Z" }), orderOf("U&=é", 12)]);
    await using opened = await open();
    const { page, complaints } = opened;
    await shows(page, "#orders", "8");
    expect(new URL(page.url()).search).toBe("");
    await page.getByLabel("User id").fill("U&=é");
    await page.keyboard.press("Enter");
    const day = today().slice(0, 10);
    await shows(page, "#user", `U&=é: 1 order, 12.00 spent, 12.00 per order (${day}); 2 orders, 42.00 spent`);
    await page.getByText("Month", { exact: true }).click();
    await shows(page, "#user", `(${day.slice(0, 7)}); 2 orders`);
    await page.getByText("7 days", { exact: true }).click();
    expect(Object.fromEntries(new URL(page.url()).searchParams)).toEqual({ period: "m", days: "7", user: "U&=é" });

    const linked = await page.context().newPage();
    await linked.goto(page.url());
    await shows(linked, "#user", `(${day.slice(0, 7)}); 2 orders`);
    await shows(linked, "#top-date", day.slice(0, 7));
    expect(await linked.getByLabel("User id").inputValue()).toBe("U&=é");
    expect(await linked.locator("[name=days]:checked").getAttribute("value")).toBe("7");

    await linked.getByLabel("From").fill("2020-02-01");
    await linked.getByLabel("to", { exact: true }).fill("2020-03-01");
    await shows(linked, "#revenue-sum", "30.00");
    await linked.reload();
    await shows(linked, "#revenue-sum", "30.00");
    expect(Object.fromEntries(new URL(linked.url()).searchParams)).toEqual({
      ...{ period: "m", from: "2020-02-01", to: "2020-03-01", user: "U&=é" },
    });
    expect(await linked.locator("[name=days]:checked").count()).toBe(0);
    expect(complaints).toEqual([]);
  });

  test("a URL whose state is invalid opens the page with its defaults", async () => {
    await using opened = await open();
    const { page, complaints } = opened;
    await page.goto(`${program.url}/dashboard?period=x&days=5&from=never&user=`);
    await shows(page, "#top-date", today().slice(0, 10));
    expect(await page.locator("[name=days]:checked").getAttribute("value")).toBe("30");
    await shows(page, "#revenue-sum", "1,");
    expect(complaints).toEqual([]);
  });

  test("today and the days are those of TIME_ZONE, which is shown, whatever the clock of the browser is set to", async () => {
    const timeZone = zoneOfAnotherDate();
    const env = { DATA_DIR: temporaryFolder(), TIME_ZONE: timeZone };
    const elsewhere = await startProgram(env);
    const url = `${eventsOf(elsewhere.output()).find(({ event }) => event === "started")?.queue}`;
    const own = openQueue(
      await locateQueue({ name: "orders-queue", url, endpoint: new URL(url).origin, embedded: true }),
    );
    await own.send([orderOf("U1", 10)]);
    await using opened = await open({ url: elsewhere.url });
    const { page, complaints } = opened;
    const date = Temporal.Now.plainDateISO(timeZone).toString();
    await shows(page, "#time-zone", timeZone);
    await shows(page, "#top-date", date);
    await shows(page, "#top tbody", "U1");
    expect(await page.getByLabel("to", { exact: true }).inputValue()).toBe(date);
    await page.getByText("Show as table").click();
    await shows(page, "#days-table tbody", `${date}\t1\t10.00`);
    expect(complaints).toEqual([]);
    own.close();
    elsewhere.kill("SIGTERM");
    await elsewhere.exited;
  });

  test("/docs follows the theme, lists tags and schemas, and has no Authorize button, because no key is set", async () => {
    for (const scheme of ["light", "dark"] as const) {
      await using opened = await open({ scheme, path: "docs" });
      const { page, complaints } = opened;
      await shows(page, "#operations-tag-orders", "Outcomes of single orders");
      await shows(page, ".models", "DailyStats");
      expect(await page.title()).toBe("order-stats API");
      await shows(page, ".info .title", "order-stats");
      expect(await page.locator(".authorize, .authorization__btn").count()).toBe(0);
      expect(await page.locator(".scheme-container").isVisible()).toBe(false);
      const background = await page.evaluate("getComputedStyle(document.documentElement).backgroundColor");
      expect(background).toBe(scheme === "dark" ? "rgb(28, 32, 34)" : "rgba(0, 0, 0, 0)");
      expect(complaints).toEqual([]);
    }
  });

  test("with API_KEY the browser asks for it once, for the stream too", async () => {
    const locked = await startProgram({ DATA_DIR: temporaryFolder(), API_KEY: "open sesame", CONSUMER_WORKERS: "0" });
    await using opened = await open({ url: locked.url, key: "open sesame" });
    await shows(opened.page, "#status", "Live");
    await shows(opened.page, "#workers", "None");
    await shows(opened.page, "#days-note", "No orders in this range");
    await shows(opened.page, "#top-note", "No orders in this period");
    const day = today().slice(0, 10);
    expect(await downloaded(opened.page, "#days-csv")).toEndWith(`\r\n${day},0,0\r\n`);
    expect(await downloaded(opened.page, "#top-csv")).toBe("user_id,order_count,total_spend\r\n");
    expect(await downloaded(opened.page, "[href^=users]")).toBe("user_id,order_count,total_spend\r\n");
    await opened.page.goto(`${locked.url}/docs`);
    await shows(opened.page, ".authorize", "Authorize");
    locked.kill("SIGTERM");
    await locked.exited;
  });
});
