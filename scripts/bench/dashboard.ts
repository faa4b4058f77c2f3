/** What the live page costs and how live it is. */

import type { Options } from "../bench.ts";
import { openBrowser } from "./browser.ts";
import { drainOnce } from "./drain.ts";
import { generateOrders, take } from "./orders.ts";
import { waitFor } from "./processes.ts";
import { startEmulator, startProgram, startRedis } from "./rig.ts";
import { compare, type Measurement, type Table } from "./rounds.ts";

const WATCHERS = 100;
/** As many as give a 99th percentile over the rounds. */
const ORDERS_SHOWN = 100;

export async function dashboard(options: Options): Promise<Table[]> {
  const [orders, users] = [options.orders?.[0] ?? 200_000, options.users?.[0] ?? 1_000];
  const drained = (watchers: number) => (seed: number) =>
    drainOnce(["index.ts"], true, { ...options, orders, users, seed, ...(watchers > 0 && { watchers }) });
  const watched = `with ${WATCHERS} dashboards`;
  const sides = { program: drained(0), [watched]: drained(WATCHERS) };
  return [
    await compare(`Drain of ${orders} orders of ${users} users`, sides, options, [[watched, "program"]]),
    await compare("Latency from sending to the page", { page: (seed) => measurePage(seed, options) }, options),
  ];
}

/** One order at a time, at moments that have nothing to do with the page's, until its number is on the page. */
async function measurePage(seed: number, options: Options): Promise<Measurement> {
  await using emulator = await startEmulator();
  await using redis = await startRedis();
  await using program = startProgram(["index.ts"], { ...options, emulator, redis });
  await waitFor(program, () => fetch(program.url));
  const browser = await openBrowser();
  try {
    const page = await browser.newPage();
    await page.goto(`${program.url}/dashboard`);
    await page.waitForSelector("#status[data-state=live]");
    // In the page's own words, on the clock that this process has too.
    await page.evaluate(`
      window.shownAtMs = {};
      new MutationObserver(() => { shownAtMs[orders.textContent] = Date.now(); }).observe(orders, { childList: true });`);
    const sentAtMs: number[] = [];
    for (const { body } of take(generateOrders({ seed, users: 1_000, days: 1 }), ORDERS_SHOWN)) {
      sentAtMs.push(Date.now());
      await emulator.sqs.send([body]);
      await page.waitForSelector(`#orders:text-is("${sentAtMs.length}")`);
      await Bun.sleep(Math.random() * 500);
    }
    const shownAtMs = (await page.evaluate("shownAtMs")) as Record<string, number>;
    const sorted = sentAtMs.map((sent, index) => (shownAtMs[index + 1] ?? 0) - sent).sort((a, b) => a - b);
    const percentile = (percent: number) => sorted[Math.ceil((sorted.length * percent) / 100) - 1] ?? 0;
    return { p50Ms: percentile(50), p99Ms: percentile(99) };
  } finally {
    await browser.close();
  }
}
