import { expect, test } from "bun:test";
import { dirname, join, relative } from "node:path";

const ROOT = join(import.meta.dir, "..");

/** Which parts each part may import at run time; the arrows point one way, in the order an order travels. */
const ARROWS: Record<string, string[]> = {
  "index.ts": ["config.ts", "log.ts", "queue", "store", "consumer", "routes"],
  "config.ts": [],
  "log.ts": [],
  queue: ["queue"],
  store: ["store"],
  "consumer/order.ts": [],
  consumer: ["consumer", "queue", "store", "log.ts"],
  routes: ["routes", "store"],
  // What the bench compares with the program does the program's work.
  "scripts/bench/sides/consumers.ts": ["scripts", "config.ts", "queue", "store", "consumer/order.ts"],
  scripts: ["scripts", "config.ts", "queue", "store"],
};

const transpiler = new Bun.Transpiler({ loader: "ts" });

/** The part a file belongs to: the most exact key of `ARROWS`. */
function partOf(path: string): string {
  return path in ARROWS ? path : (path.split("/")[0] ?? "");
}

async function forbiddenImports(path: string, source: string): Promise<string[]> {
  const allowed = ARROWS[partOf(path)];
  if (!allowed) return [`${path} belongs to no part of the house`];
  return transpiler
    .scanImports(source)
    .filter(({ path: imported }) => imported.startsWith("."))
    .map(({ path: imported }) => relative(ROOT, join(ROOT, dirname(path), imported)))
    .filter((imported) => !allowed.includes(imported) && !allowed.includes(imported.split("/")[0] ?? ""))
    .map((imported) => `${path} -> ${imported}`);
}

test("every import follows the arrows of the house", async () => {
  const patterns = ["*.ts", "{queue,store,consumer,routes,scripts}/**/*.ts"];
  const files = patterns.flatMap((pattern) => [...new Bun.Glob(pattern).scanSync(ROOT)]);
  const sources = files.filter((file) => !file.endsWith(".d.ts"));
  expect(sources.length).toBeGreaterThan(20);
  const found = await Promise.all(
    sources.map(async (file) => forbiddenImports(file, await Bun.file(join(ROOT, file)).text())),
  );
  expect(found.flat()).toEqual([]);
});

test.each([
  ["store/redis.ts", "../routes/app.ts"],
  ["queue/queue.ts", "../store/open.ts"],
  ["routes/stats.ts", "../consumer/pool.ts"],
  ["consumer/order.ts", "../store/periods.ts"],
  ["consumer/poll.ts", "../routes/app.ts"],
  ["utils.ts", "./config.ts"],
])("an import from %s of %s is found", async (path, imported) => {
  expect(await forbiddenImports(path, `import { x } from "${imported}"; x();`)).toHaveLength(1);
});

test("only config.ts, and scripts and index.ts on its behalf, read the environment", async () => {
  const files = [...new Bun.Glob("{queue,store,consumer,routes}/**/*.ts").scanSync(ROOT)];
  for (const file of [...files, "log.ts"]) {
    expect(await Bun.file(join(ROOT, file)).text(), file).not.toMatch(/(process|Bun|import\.meta)\.env/);
  }
});
