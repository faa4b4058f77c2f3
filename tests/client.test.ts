import { expect, setDefaultTimeout, test } from "bun:test";
import { unlink } from "node:fs/promises";
import { join } from "node:path";
import { readConfig } from "../config.ts";
import { start } from "../index.ts";
import { openStore } from "../store/open.ts";
import { order } from "./support/orders.ts";
import { temporaryFolder } from "./support/program.ts";

// The compiler and real processes on a busy machine: bun's five seconds would fail a test that is only slow.
setDefaultTimeout(60_000);

const ROOT = join(import.meta.dir, "..");

/** The typed client of docs/api.md. */
async function example(): Promise<string> {
  const page = await Bun.file(join(ROOT, "docs/api.md")).text();
  return /```ts\n(import { treaty }.*?)```/s.exec(page)?.[1] ?? "";
}

/** Writes a program beside the others, since it imports their types, and takes it away again. */
async function written<T>(source: string, use: (file: string) => Promise<T>): Promise<T> {
  const file = join(ROOT, `example-${crypto.randomUUID()}.ts`);
  await Bun.write(file, source);
  return await use(file).finally(() => unlink(file));
}

const compile = (file: string) => {
  const flags = ["--noEmit", "--ignoreConfig", "--strict", "--skipLibCheck", "--allowImportingTsExtensions"];
  const modules = [
    "--module",
    "Preserve",
    "--moduleResolution",
    "bundler",
    "--target",
    "ESNext",
    "--types",
    "bun-types",
  ];
  const compiler = Bun.spawnSync(["bunx", "tsc", ...flags, ...modules, "types.d.ts", file], { cwd: ROOT });
  return compiler.stdout.toString();
};

test("the documented typed client compiles, and prints what the API says", async () => {
  const dir = temporaryFolder();
  const store = await openStore({ kind: "sqlite", path: join(dir, "orders.db") });
  await store.record([order({ userId: "U5678", cents: 320_075, day: new Date().toISOString().slice(0, 10) })]);
  await store.close();
  const env = { PORT: "0", EMBEDDED_QUEUE_PORT: "0", CONSUMER_WORKERS: "0", LOG_LEVEL: "silent", DATA_DIR: dir };
  const running = await start(readConfig(env));
  const source = (await example()).replace("http://localhost:8000", running.url);
  const { compiled, output } = await written(source, async (file) => {
    const program = Bun.spawn([process.execPath, file], { cwd: ROOT, stdout: "pipe" });
    return { compiled: compile(file), output: await new Response(program.stdout).text() };
  });
  await running.stop();
  expect(compiled).toBe("");
  expect(output).toBe("1 orders, 3200.75\nU5678 spent 3200.75\n");
});

test("a field that there is not is found by the compiler", async () => {
  const source = (await example()).replace("total_revenue", "total_reveneu");
  expect(await written(source, async (file) => compile(file))).toContain("total_reveneu");
});
