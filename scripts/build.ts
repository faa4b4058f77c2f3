/** `bun run build`: makes one executable of the program and its scripts. */

import { statSync } from "node:fs";
import { join } from "node:path";
import type { BunPlugin } from "bun";
import { bundleDashboard } from "../routes/dashboard-bundle.ts";
import { formatNumber } from "../text.ts";
import { type CommandResult, createCommand, type Values } from "./cli.ts";

const ROOT = join(import.meta.dir, "..");
/** Workers are found by their names beside the program: see `naming`. */
const ENTRYPOINTS = ["orders.ts", "consumer/worker.ts", "queue/emulator-worker.ts"];

const OPTIONS = {
  outfile: { help: "path of the executable (dist/orders)", type: "text" },
  target: { help: "another system, such as bun-linux-arm64 or bun-darwin-arm64", type: "text" },
} as const;

const build = createCommand({
  description: `Makes one executable of the program, its workers and pages, the embedded queue and the scripts. It needs neither Bun
nor node_modules where it runs.`,
  usage: "bun run build [options]",
  options: OPTIONS,
  notes: "For another system than this one, Bun downloads its executable for that system from the npm registry.",
  examples: ["bun run build", "bun run build --target bun-linux-arm64 --outfile dist/orders-linux-arm64"],
  run,
});

async function run({ outfile = join(ROOT, "dist/orders"), target }: Values<typeof OPTIONS>): Promise<CommandResult> {
  await Bun.build({
    entrypoints: ENTRYPOINTS.map((path) => join(ROOT, path)),
    target: "bun",
    // All in one folder: there, all code of the program is one file, next to which it looks for "./worker.ts".
    naming: { entry: "[name].[ext]" },
    // Not the identifiers: stack traces in the log need the names of functions.
    minify: { whitespace: true, syntax: true },
    // Cuts the time until the program listens to less than half.
    bytecode: true,
    format: "esm",
    plugins: [replacements(renameCommands(JSON.stringify(await bundleDashboard())))],
    // A bunfig.toml in the folder where it is started belongs to another program.
    compile: { outfile, autoloadBunfig: false, ...(target && { target: target as Bun.Build.CompileTarget }) },
  }).catch((error) => {
    throw error instanceof AggregateError ? error.errors[0] : error;
  });
  const { size } = statSync(outfile);
  return { json: { outfile, bytes: size }, lines: [`Made ${outfile}, ${formatNumber(Math.round(size / 1e6))} MB`] };
}

/** Replaces the function that bundles the page, whose sources are not in the executable, by its result. */
const replacements = (page: string): BunPlugin => ({
  name: "replacements",
  setup(build) {
    const contents = `export const bundleDashboard = async () => ${page};`;
    build.onLoad({ filter: /\/routes\/dashboard-bundle\.ts$/ }, () => ({ contents, loader: "js" }));
    build.onLoad({ filter: /^(?!.*\/node_modules\/).*\.ts$/ }, async ({ path }) => {
      return { contents: renameCommands(await Bun.file(path).text()), loader: "ts" };
    });
  },
});

/** Help and messages name commands as they are entered in the repository. In the executable they are `orders` and `orders audit`. */
const renameCommands = (text: string) =>
  text.replaceAll(/bun scripts\/([\w-]+)\.ts/g, "orders $1").replaceAll("bun run start", "orders");

process.exit(await build(process.argv.slice(2), Bun.env));
