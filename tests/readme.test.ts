import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { cpSync, existsSync, readdirSync, readFileSync, symlinkSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { temporaryFolder } from "./support/program.ts";
import { freePort } from "./support/redis-server.ts";
import { waitFor } from "./support/wait-for.ts";

// Real processes on a busy machine: bun's five seconds would fail a test that is only slow.
setDefaultTimeout(60_000);

const ROOT = join(import.meta.dir, "..");
const read = (path: string) => readFileSync(join(ROOT, path), "utf8");

/** The program without its data, as after a clone and `bun install`. */
function cloneWithDependencies(): string {
  const dir = temporaryFolder();
  const left = ["node_modules", ".git", ".data", "tests"];
  const filter = (source: string) => dirname(source) !== ROOT || !left.includes(basename(source));
  cpSync(ROOT, dir, { recursive: true, preserveTimestamps: true, filter });
  symlinkSync(join(ROOT, "node_modules"), join(dir, "node_modules"));
  return dir;
}

const port = freePort(1);
const env = {
  PATH: process.env.PATH ?? "",
  HOME: process.env.HOME ?? "",
  PORT: `${port}`,
  EMBEDDED_QUEUE_PORT: `${port + 1}`,
};
const dir = cloneWithDependencies();
const children: Bun.Subprocess[] = [];
afterAll(async () => {
  for (const child of children) child.kill();
  await Promise.all(children.map(({ exited }) => exited));
});

function spawn(command: string) {
  const words = ["bash", "-c", command.replaceAll("localhost:8000", `localhost:${port}`)];
  const child = Bun.spawn(words, { cwd: dir, env, stdin: "ignore", stdout: "pipe", stderr: "pipe" });
  children.push(child);
  return child;
}

/** The commands of the section's `console` blocks, each with the output below it. */
function commandsOf(section: string) {
  const blocks = [...section.matchAll(/```console\n(.*?)```/gs)].map(([, block]) => block ?? "");
  return blocks
    .flatMap((block) => block.split(/^\$ /m).slice(1))
    .map((text) => {
      const [command = "", ...lines] = text.split("\n");
      return { command, output: lines.join("\n") };
    });
}

/** Replaces what differs from run to run: times, rates and the year. */
const withoutTimes = (output: string) =>
  output
    .replaceAll(/\d{4}-\d\d-\d\dT[\d:.]+Z/g, "TIME")
    .replaceAll(/"20\d\d"/g, '"YEAR"')
    .replaceAll(/[\d.]+ s \([\d,]+ messages\/s\)/g, "SECONDS");

test("the quick start of README.md works as written, with the same totals", async () => {
  const [, section = ""] = /\n## Quick start\n(.*?)\n## /s.exec(read("README.md")) ?? [];
  const [start, ...others] = commandsOf(section);
  expect(others.length).toBeGreaterThan(3);
  spawn(`exec ${start?.command}`);
  await waitFor(
    "the API",
    () =>
      fetch(`http://localhost:${port}/ready`).then(
        ({ ok }) => ok,
        () => false,
      ),
    30_000,
  );
  for (const { command, output } of others) {
    const expected = withoutTimes(output).trim();
    let printed = "";
    const printsExpected = async () => {
      printed = withoutTimes(await spawn(command).stdout.text()).trim();
      return printed === expected;
    };
    // Orders are counted some milliseconds after they were sent. A command that sends is not repeated.
    if (command.startsWith("curl ")) await waitFor(command, printsExpected).catch(() => {});
    else await printsExpected();
    expect(printed, command).toBe(expected);
  }
});

/** GitHub's anchors of a page's headings. */
const anchorsOf = (page: string) =>
  (read(page).match(/^#+ .*$/gm) ?? []).map((heading) =>
    heading
      .replace(/^#+ /, "")
      .toLowerCase()
      .replaceAll(/[^\w\- ]/g, "")
      .replaceAll(" ", "-"),
  );

test("every link to a page, a section or an image of docs/ has a target", () => {
  const docs = readdirSync(join(ROOT, "docs")).filter((name) => name.endsWith(".md"));
  const broken = ["README.md", ...docs.map((name) => `docs/${name}`)].flatMap((page) => {
    const links = read(page).matchAll(/(?:\]\(|src="|srcset=")(?!https?:)([^)"#\s]*)#?([^)"\s]*)[)"]/g);
    return [...links].flatMap(([link, path, anchor]) => {
      const target = path ? join(dirname(page), path) : page;
      const found = existsSync(join(ROOT, target)) && (!anchor || anchorsOf(target).includes(anchor));
      return found ? [] : [`${page}: ${link}`];
    });
  });
  expect(broken).toEqual([]);
});

test("README.md has at most 200 lines", () => {
  expect(read("README.md").trimEnd().split("\n").length).toBeLessThanOrEqual(200);
});
