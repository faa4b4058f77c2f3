import { expect, test } from "bun:test";
import { dirname, join, relative } from "node:path";
import manifest from "../package.json";

const ROOT = join(import.meta.dir, "..");

/** Small modules that know nothing of the program. */
const SHARED = ["deadline.ts", "errors.ts", "loopback.ts", "metric-names.ts", "outage-log.ts", "text.ts"];

/** Which parts each part may import at run time; the arrows point one way, in the order an order travels. */
const ARROWS: Record<string, string[]> = {
  "index.ts": [...SHARED, "config.ts", "log.ts", "script-runner.ts", "queue", "store", "consumer", "routes"],
  "orders.ts": ["index.ts", "package.json", "scripts", "text.ts"],
  "config.ts": ["text.ts"],
  "log.ts": ["text.ts"],
  "script-runner.ts": [],
  "deadline.ts": [],
  "errors.ts": [],
  "outage-log.ts": ["errors.ts"],
  "text.ts": [],
  "loopback.ts": [],
  "metric-names.ts": [],
  "worker-status.ts": [],
  queue: [...SHARED, "queue"],
  store: [...SHARED, "store"],
  // The limits of an order are the store's.
  "consumer/order.ts": ["store/store.ts", "consumer/envelope.ts", "consumer/json.ts", "consumer/timestamp.ts"],
  "consumer/envelope.ts": ["consumer/json.ts"],
  "consumer/json.ts": [],
  "consumer/timestamp.ts": [],
  consumer: [...SHARED, "consumer", "queue", "store", "log.ts"],
  // The version.
  routes: [...SHARED, "package.json", "routes", "queue", "store"],
  // What the bench compares with the program does the program's work.
  "scripts/bench/competitors/consumers.ts": ["scripts", "store", "consumer/order.ts"],
  "scripts/redrive.ts": [...SHARED, "scripts", "config.ts", "queue", "store", "consumer/envelope.ts"],
  // Validates what it sends as the consumer does.
  "scripts/import.ts": [
    ...SHARED,
    ...["scripts", "config.ts", "queue", "store", "consumer/order.ts", "consumer/time-zone.ts"],
  ],
  "scripts/build.ts": [...SHARED, "scripts", "routes/dashboard-bundle.ts"],
  scripts: [...SHARED, "scripts", "config.ts", "queue", "store"],
};

function files(): string[] {
  const patterns = ["*.ts", "{queue,store,consumer,routes,scripts}/**/*.ts"];
  const all = patterns.flatMap((pattern) => [...new Bun.Glob(pattern).scanSync(ROOT)]);
  return all.filter((file) => !file.endsWith(".d.ts"));
}

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
  expect(files().length).toBeGreaterThan(50);
  const found = await Promise.all(
    files().map(async (file) => forbiddenImports(file, await Bun.file(join(ROOT, file)).text())),
  );
  expect(found.flat()).toEqual([]);
});

/** @returns a circle of imports, types included, as a list of files; empty where there is none */
function findCircle(imports: Map<string, string[]>): string[] {
  const done = new Set<string>();
  function visit(file: string, path: string[]): string[] {
    if (path.includes(file)) return [...path.slice(path.indexOf(file)), file];
    if (done.has(file)) return [];
    for (const imported of imports.get(file) ?? []) {
      const circle = visit(imported, [...path, file]);
      if (circle.length > 0) return circle;
    }
    done.add(file);
    return [];
  }
  for (const file of imports.keys()) {
    const circle = visit(file, []);
    if (circle.length > 0) return circle;
  }
  return [];
}

/** By text: the transpiler leaves out imports of types, and a circle of those is as hard to read. */
const importsOf = (path: string, source: string) =>
  Array.from(source.matchAll(/(?:from |import\()"(\.[^"]+)"/g), ([, imported = ""]) =>
    relative(ROOT, join(ROOT, dirname(path), imported)),
  );

test("no imports go round in a circle, not even of types", async () => {
  const sources = files().map(
    async (file) => [file, importsOf(file, await Bun.file(join(ROOT, file)).text())] as const,
  );
  expect(findCircle(new Map(await Promise.all(sources)))).toEqual([]);
  const planted = new Map([
    ["a.ts", ["b.ts"]],
    ["b.ts", ["c.ts"]],
    ["c.ts", importsOf("c.ts", 'import type { B } from "./b.ts";')],
  ]);
  expect(findCircle(planted)).toEqual(["b.ts", "c.ts", "b.ts"]);
});

test.each([
  ["store/redis.ts", "../routes/app.ts"],
  ["queue/queue.ts", "../store/open.ts"],
  ["routes/stats.ts", "../consumer/pool.ts"],
  ["consumer/order.ts", "../store/periods.ts"],
  ["consumer/poller.ts", "../routes/app.ts"],
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

const NO_PACKAGE = /^(\.|node:|bun(:|$))/;
const packageOf = (path: string) => path.split("/", path.startsWith("@") ? 2 : 1).join("/");
const sorted = (packages: string[]) => [...new Set(packages)].sort();

test("what the program and its commands import, and nothing else, is installed for production", async () => {
  const { dependencies, optionalDependencies } = manifest;
  // The bench runs from a working copy.
  const shipped = files().filter((file) => !file.startsWith("scripts/bench"));
  const sources = await Promise.all(shipped.map((file) => Bun.file(join(ROOT, file)).text()));
  const imported = sources
    .flatMap((source) => transpiler.scanImports(source))
    .map(({ path }) => path)
    .filter((path) => !NO_PACKAGE.test(path));
  expect(sorted(imported.map(packageOf))).toEqual(sorted(Object.keys({ ...dependencies, ...optionalDependencies })));
});

test("no file imports a package that package.json does not name, not even for its types", async () => {
  const { dependencies, optionalDependencies, devDependencies } = manifest;
  const named = Object.keys({ ...dependencies, ...optionalDependencies, ...devDependencies });
  const paths = [...files(), ...new Bun.Glob("tests/**/*.ts").scanSync(ROOT)];
  const sources = await Promise.all(paths.map((file) => Bun.file(join(ROOT, file)).text()));
  const imported = sources
    .flatMap((source) => [...source.matchAll(/(?:from |import\(|require\.resolve\()"([@a-z][^"]*)"/g)])
    .map(([, path = ""]) => path)
    .filter((path) => !NO_PACKAGE.test(path));
  expect(imported.length).toBeGreaterThan(50);
  expect(sorted(imported.map(packageOf)).filter((name) => !named.includes(name))).toEqual([]);
});
