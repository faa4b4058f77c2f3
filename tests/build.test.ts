import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { copyFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { version } from "../package.json";
import { temporaryFolder } from "./support/program.ts";
import { freePort, type RedisServer, startRedisServer } from "./support/redis-server.ts";
import { waitFor } from "./support/wait-for.ts";

// Building takes seconds, on a busy machine several times as long.
setDefaultTimeout(120_000);

const ROOT = join(import.meta.dir, "..");
/** With nothing but the executable in it, and no environment that would help to find Bun, packages or a home. */
const DIR = temporaryFolder();
const [port, queuePort] = [freePort(), freePort()];
const ENV = { PORT: `${port}`, EMBEDDED_QUEUE_PORT: `${queuePort}` };
const url = `http://127.0.0.1:${port}`;

let redis: RedisServer;
let program: Bun.Subprocess | undefined;
const traces = Bun.serve({ hostname: "127.0.0.1", port: 0, fetch: async (request) => received(await request.text()) });
let spans = "";
function received(text: string) {
  spans += text;
  return Response.json({});
}

beforeAll(async () => {
  const outfile = join(temporaryFolder(), "orders");
  const build = Bun.spawn([process.execPath, "run", "build", "--outfile", outfile], { cwd: ROOT, stderr: "pipe" });
  const [code, errors] = await Promise.all([build.exited, build.stderr.text()]);
  expect(code, errors).toBe(0);
  copyFileSync(outfile, join(DIR, "orders"));
  redis = await startRedisServer();
});
afterAll(async () => {
  program?.kill();
  await Promise.all([program?.exited, redis?.stop(), traces.stop(true)]);
});

function spawn(args: string[], env: Record<string, string> = {}) {
  return Bun.spawn(["./orders", ...args], { cwd: DIR, env: { ...ENV, ...env }, stdout: "pipe", stderr: "pipe" });
}

async function run(args: string[], env: Record<string, string> = {}) {
  const child = spawn(args, env);
  const [code, out, err] = await Promise.all([child.exited, child.stdout.text(), child.stderr.text()]);
  return { code, out: out.trim(), err: err.trim() };
}

async function runJson(args: string[], env: Record<string, string> = {}) {
  const { code, out, err } = await run([...args, "--json"], env);
  expect(code, err).toBe(0);
  return JSON.parse(out.split("\n").at(-1) ?? "");
}

async function start() {
  program = spawn([], { OTEL_EXPORTER_OTLP_ENDPOINT: traces.url.origin });
  await waitFor("the program to be healthy", async () => (await run(["health"])).code === 0, 30_000);
}

async function totals() {
  const response = await fetch(`${url}/stats/global`);
  const { total_orders: orders, total_revenue: revenue } = (await response.json()) as Record<string, number>;
  return { orders, revenue };
}

/** @returns the page, and the files of this server that it loads */
async function load(path: string) {
  const page = await (await fetch(`${url}/${path}`)).text();
  const paths = Array.from(
    page.matchAll(/(?:<link rel="stylesheet"[^>]+href|<script[^>]+src)="([^"]+)"/g),
    ([, file = ""]) => file,
  );
  const files = paths.map(async (file) => {
    const response = await fetch(`${url}/${file}`);
    return { file, status: response.status, type: response.headers.get("content-type"), text: await response.text() };
  });
  return { page, files: await Promise.all(files) };
}

test("alone in an empty folder, the executable counts orders, and after kill -9 its sums agree", async () => {
  expect(readdirSync(DIR)).toEqual(["orders"]);
  expect((await run(["health"])).code).toBe(1);
  await start();

  const sent = await runJson("populate --orders 300 --mismatch 5 --invalid 4 --duplicates 5 --seed 7".split(" "));
  const { orders, revenue } = sent;
  await waitFor("all orders", async () => (await totals()).orders === orders, 20_000);
  expect(await totals()).toEqual({ orders, revenue });
  await waitFor("the spans of the workers", () => spans.includes("resourceSpans"), 20_000);

  program?.kill("SIGKILL");
  await program?.exited;
  await start();
  expect(await totals()).toEqual({ orders, revenue });
  expect(await runJson(["audit"])).toMatchObject({ agrees: true, orders, revenue });
  expect(await runJson(["redrive"])).toMatchObject({ matched: sent.rejected });

  const target = redis.freshUrl();
  await runJson(["copy-store", "--to", target]);
  expect(await runJson(["audit"], { REDIS_URL: target })).toMatchObject({ agrees: true, orders, revenue });
});

test("its dashboard loads script and style", async () => {
  const { page, files } = await load("dashboard");
  expect(page).toContain("<code>orders populate</code>");
  expect(files.map(({ status, type }) => [status, type])).toEqual([
    [200, "text/css;charset=utf-8"],
    [200, "text/javascript;charset=utf-8"],
  ]);
  for (const { file, text } of files) expect(text.length, file).toBeGreaterThan(5_000);
});

test("its API documentation loads Swagger UI", async () => {
  const { files } = await load("docs");
  const assets = files.filter(({ file }) => !file.endsWith("start.js"));
  expect(assets.map(({ file }) => file)).toEqual(["docs/swagger-ui.css", "docs/swagger-ui-bundle.js"]);
  for (const { file, text } of assets)
    expect(text, file).toBe(
      await Bun.file(join(ROOT, "node_modules/swagger-ui-dist", file.slice("docs/".length))).text(),
    );
});

test("it prints its version and how to use it", async () => {
  expect(await run(["--version"])).toEqual({ code: 0, out: version, err: "" });
  const { out } = await run(["--help"]);
  for (const name of ["populate", "import", "audit", "redrive", "copy-store", "health"]) {
    expect(out).toMatch(new RegExp(`^  ${name} `, "m"));
    const help = await run([name, "--help"]);
    expect(help.out).toContain(`Usage: orders ${name} `);
    expect(help.out).not.toMatch(/\bbun\b/);
  }
});

test.each([
  [["popluate", "--orders", "5"], `Unknown command "popluate --orders 5": did you mean populate?`],
  [["frobnicate"], `Unknown command "frobnicate": see orders --help`],
  [["populate", "--order", "5"], "Unknown option '--order': did you mean --orders?"],
])("%p fails with one sentence and exit code 2", async (args, sentence) => {
  expect(await run(args)).toEqual({ code: 2, out: "", err: sentence });
});
