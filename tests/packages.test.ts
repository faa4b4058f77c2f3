import { expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import lock from "../bun.lock";
import manifest from "../package.json";
import { install } from "./support/install.ts";

setDefaultTimeout(30_000);

const ROOT = join(import.meta.dir, "..");

/** Licences that allow any use, also in closed programs, if their text and the copyright notice are kept. */
const PERMISSIVE = [
  ...["MIT", "ISC", "BSD-2-Clause", "BSD-3-Clause", "Apache-2.0", "0BSD", "BlueOak-1.0.0"],
  ...["Unlicense", "CC0-1.0", "Python-2.0"],
];

/** @returns whether an SPDX expression allows one of these licences. One with AND does not */
const isPermissive = (license = "") =>
  license
    .replaceAll(/[()]/g, "")
    .split(" OR ")
    .some((each) => PERMISSIVE.includes(each));

interface Package {
  name: string;
  version: string;
  license?: string;
}
const readPackage = (dir: string) => Bun.file(join(dir, "package.json")).json() as Promise<Package>;

/** Every package in a folder, also those inside other packages. */
async function packagesIn(dir: string): Promise<Package[]> {
  const patterns = ["**/node_modules/*/package.json", "**/node_modules/@*/*/package.json"];
  const paths = patterns.flatMap((pattern) => [...new Bun.Glob(pattern).scanSync(dir)]);
  return await Promise.all(paths.map((path) => Bun.file(join(dir, path)).json()));
}

test("every package that is installed for production has a permissive licence", async () => {
  const { dir } = await install("--production");
  const packages = await packagesIn(dir);
  const names = packages.map(({ name }) => name);
  expect(names).toContainValues([...Object.keys(manifest.dependencies), "fauxqs", "fastify", "bintrees"]);
  const others = packages.filter(({ license }) => !isPermissive(license));
  expect(others.map(({ name, version, license }) => `${name}@${version}: ${license}`)).toEqual([]);
});

test.each([
  ["MIT", true],
  ["(MIT OR GPL-3.0-or-later)", true],
  ["GPL-3.0-only", false],
  ["MIT AND GPL-2.0-only", false],
  ["SEE LICENSE IN LICENSE.md", false],
  [undefined, false],
])("the licence %p: permissive %p", (license, permissive) => {
  expect(isPermissive(license)).toBe(permissive);
});

const direct = { ...manifest.dependencies, ...manifest.optionalDependencies, ...manifest.devDependencies };

test("every direct dependency has an exact version", () => {
  expect(Object.entries(direct).filter(([, version]) => !/^\d+\.\d+\.\d+$/.test(version))).toEqual([]);
});

test("CONTRIBUTING.md has the reason and the licence of every direct dependency, and of nothing else", async () => {
  const text = await Bun.file(join(ROOT, "CONTRIBUTING.md")).text();
  const rows = [...text.matchAll(/^\| `([@\w./-]+)` \| (\S.*) \| ([^|]+) \|$/gm)];
  const described = rows.map(([, name = "", , license]) => [name, license]);
  const installed = Object.keys(direct).map(async (name) => {
    const { license } = await readPackage(join(ROOT, "node_modules", name));
    return [name, license];
  });
  expect(described.sort()).toEqual((await Promise.all(installed)).sort());
});

test("CHANGELOG.md has this version, and what is not released yet", async () => {
  const text = await Bun.file(join(ROOT, "CHANGELOG.md")).text();
  const [unreleased, latest] = text.matchAll(/^## \[(.+?)\]/gm);
  expect([unreleased?.[1], latest?.[1]]).toEqual(["Unreleased", manifest.version]);
});

/** `"name": ["name@version", registry, { dependencies… }, integrity]`; a nested package is `parent/name`. */
type Locked = Record<string, [string, string, { optionalDependencies?: Record<string, string> }, string]>;

test("the lockfile has the optional dependencies of every platform, so that a Mac gets its build of biome", () => {
  const locked = lock.packages as unknown as Locked;
  const missing = Object.entries(locked).flatMap(([parent, [, , { optionalDependencies = {} }]]) =>
    Object.keys(optionalDependencies).filter((name) => !(name in locked) && !(`${parent}/${name}` in locked)),
  );
  expect(missing).toEqual([]);
});
