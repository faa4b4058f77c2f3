import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { DCLinter } from "dclint";
import { temporaryFolder } from "./program.ts";

/** What the Compose specification has against a compose file. Its JSON schema comes with `dclint`, whose warnings are style. */
export async function composeProblems(text: string): Promise<string[]> {
  const path = join(temporaryFolder(), "compose.yaml");
  writeFileSync(path, text);
  const linter = new DCLinter({ rules: {}, quiet: true, debug: false, exclude: [] });
  const messages = linter.lintFiles([path], false).flatMap(({ messages }) => messages);
  return messages.filter(({ type }) => type === "error").map(({ message }) => message);
}
