import { symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { YAML } from "bun";
import { DCLinter } from "dclint";
import { temporaryFolder } from "./program.ts";

const MODULES = join(import.meta.dir, "../../node_modules");

/** What the Compose specification has against a compose file. Its JSON schema comes with `dclint`, whose warnings are style. */
export async function composeProblems(text: string): Promise<string[]> {
  const path = join(temporaryFolder(), "compose.yaml");
  writeFileSync(path, text);
  const linter = new DCLinter({ rules: {}, quiet: true, debug: false, exclude: [] });
  const messages = linter.lintFiles([path], false).flatMap(({ messages }) => messages);
  return messages.filter(({ type }) => type === "error").map(({ message }) => message);
}

/** What the schemas of Kubernetes, KEDA and the Prometheus operator have against objects, by the types made of them. */
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

/** A value, and the TypeScript type that it should be of. */
export interface Claim {
  name: string;
  type: string;
  value: unknown;
}

/** What TypeScript has against the claims: a literal may have no property that its type does not know. */
export async function typeProblems(claims: Claim[], declarations: string[] = []): Promise<string[]> {
  const dir = temporaryFolder();
  symlinkSync(MODULES, join(dir, "node_modules"));
  // A line for each claim, so that the line of a problem gives its name.
  const lines = claims.map(
    ({ type, value }, index) => `export const c${index}: ${type.replaceAll("\n", " ")} = ${JSON.stringify(value)};`,
  );
  writeFileSync(join(dir, "claims.ts"), [...lines, ...declarations].join("\n"));
  const options = "--noEmit --strict --skipLibCheck --pretty false --module preserve --target esnext --ignoreConfig";
  const tsc = [
    process.execPath,
    join(MODULES, "typescript/bin/tsc"),
    ...options.split(" "),
    "--types",
    "",
    "claims.ts",
  ];
  const child = Bun.spawn(tsc, { cwd: dir, stdout: "pipe", stderr: "pipe" });
  const [output, errors, code] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  if (code === 0) return [];
  const nameOf = (line: string) => claims[Number(line) - 1]?.name ?? "";
  return `${output}${errors}`
    .trim()
    .replaceAll(/^claims\.ts\((\d+),\d+\)/gm, (_, line) => nameOf(line))
    .split(/\n(?! )/);
}
