/** Reads what dashboards read: `watchers.ts URL COUNT`. */

const [url = "", count = "1"] = process.argv.slice(2);
const day = new Date().toISOString().slice(0, 10);
const READS = [
  "top-users?period=d",
  `stats/daily?from=${day}&to=${day}`,
  "orders/recent?outcome=corrected",
  "orders/recent?outcome=rejected",
];
const REFRESH_MS = 5_000;

async function watch() {
  const { body } = await fetch(`${url}/events`);
  const stream = body?.getReader();
  while (stream && !(await stream.read()).done);
}

async function refresh() {
  // Pages are not opened at one moment.
  await Bun.sleep(Math.random() * REFRESH_MS);
  for (;;) {
    for (const path of READS) await (await fetch(`${url}/${path}`)).arrayBuffer();
    await Bun.sleep(REFRESH_MS);
  }
}

const ended = Array.from({ length: Number(count) }, () => Promise.race([watch(), refresh()]));
await Promise.all(ended);

export {};
