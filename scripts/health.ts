/** `orders health`: prints the health of the program on this machine. The container image has no other HTTP client. */

import { readConfig } from "../config.ts";
import { type CommandResult, type Context, createCommand } from "./cli.ts";

/** The route responds within about 2 s even when the store or the queue is unavailable. */
const DEADLINE_MS = 8_000;

export const health = createCommand({
  description: "Prints the health of the program on this machine, as its API reports it at /health.",
  usage: "bun scripts/health.ts [options]",
  options: {},
  notes: `Needs the environment of the program, for HOST and PORT. The exit code is 1 if the program is unhealthy or does not
respond.`,
  examples: ["bun scripts/health.ts", "PORT=9000 bun scripts/health.ts"],
  run,
});

async function run(_: object, { env }: Context): Promise<CommandResult> {
  const { host, port } = readConfig(env).http;
  // These mean every address of the machine when listening.
  const name = { "0.0.0.0": "127.0.0.1", "::": "::1" }[host] ?? host;
  const url = `http://${name.includes(":") ? `[${name}]` : name}:${port}/health`;
  const response = await fetch(url, { signal: AbortSignal.timeout(DEADLINE_MS) }).catch((cause) => {
    throw new Error(`${url} does not respond: is \`bun run start\` running?`, { cause });
  });
  const body = await response.text();
  return { json: JSON.parse(body), lines: [body], exitCode: response.ok ? 0 : 1 };
}

if (import.meta.main) process.exit(await health(process.argv.slice(2), Bun.env));
