import { symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { YAML } from "bun";
import { DCLinter } from "dclint";
import { temporaryFolder } from "./program.ts";

const MODULES = join(import.meta.dir, "../../node_modules");

/** @returns violations of the Compose specification. `dclint` has its JSON schema; its warnings are only style. */
export async function composeProblems(text: string): Promise<string[]> {
  const path = join(temporaryFolder(), "compose.yaml");
  writeFileSync(path, text);
  const linter = new DCLinter({ rules: {}, quiet: true, debug: false, exclude: [] });
  const messages = linter.lintFiles([path], false).flatMap(({ messages }) => messages);
  return messages.filter(({ type }) => type === "error").map(({ message }) => message);
}

/** @returns violations of the schemas of Kubernetes, KEDA and the Prometheus operator, found by the types generated from them */
export async function kubernetesProblems(text: string): Promise<string[]> {
  const objects = YAML.parse(text) as { apiVersion: string; kind: string }[];
  return await typeProblems(
    objects.map((object) => ({
      name: object.kind,
      type: `import("${packageOf(object.apiVersion)}/${object.apiVersion}/${object.kind}").I${object.kind}`,
      value: object,
    })),
  );
}

function packageOf(apiVersion: string): string {
  if (apiVersion.startsWith("keda.sh/")) return "@kubernetes-models/keda";
  if (apiVersion.startsWith("monitoring.coreos.com/")) return "@kubernetes-models/prometheus-operator";
  return "kubernetes-models";
}

/** A value and the TypeScript type that it should have. */
export interface TypedValue {
  name: string;
  type: string;
  value: unknown;
}

/** @returns TypeScript's errors about the values: a literal may have no property that its type does not have */
export async function typeProblems(values: TypedValue[], declarations: string[] = []): Promise<string[]> {
  const dir = temporaryFolder();
  symlinkSync(MODULES, join(dir, "node_modules"));
  // A line for each value, so that the line of an error gives its name.
  const lines = values.map(
    ({ type, value }, index) => `export const v${index}: ${type.replaceAll("\n", " ")} = ${JSON.stringify(value)};`,
  );
  writeFileSync(join(dir, "values.ts"), [...lines, ...declarations].join("\n"));
  const options = "--noEmit --strict --skipLibCheck --pretty false --module preserve --target esnext --ignoreConfig";
  const tsc = [
    process.execPath,
    join(MODULES, "typescript/bin/tsc"),
    ...options.split(" "),
    "--types",
    "",
    "values.ts",
  ];
  const child = Bun.spawn(tsc, { cwd: dir, stdout: "pipe", stderr: "pipe" });
  const [output, errors, code] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  if (code === 0) return [];
  const nameOf = (line: string) => values[Number(line) - 1]?.name ?? "";
  return `${output}${errors}`
    .trim()
    .replaceAll(/^values\.ts\((\d+),\d+\)/gm, (_, line) => nameOf(line))
    .split(/\n(?! )/);
}
