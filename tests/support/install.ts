import { expect } from "bun:test";
import { cpSync } from "node:fs";
import { join } from "node:path";
import { temporaryFolder } from "./program.ts";

const ROOT = join(import.meta.dir, "../..");

/** Installs what the lockfile says into a folder that does not outlive the test process. @returns the folder and the output */
export async function install(...options: string[]) {
  const dir = temporaryFolder();
  for (const path of ["package.json", "bun.lock", "bunfig.toml", "patches"])
    cpSync(join(ROOT, path), join(dir, path), { recursive: true });
  const command = [process.execPath, "install", "--frozen-lockfile", "--verbose", ...options];
  // A script that ran in spite of the test would send nothing.
  const env = { ...process.env, SCARF_ANALYTICS: "false" };
  const child = Bun.spawn(command, { cwd: dir, env, stdout: "pipe", stderr: "pipe" });
  const [stdout, stderr, exitCode] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  expect(exitCode, stderr).toBe(0);
  return { dir, output: stdout + stderr };
}
