// The entry point of the executable that `bun run build` makes: starts the program or runs one of its scripts.
import { version } from "./package.json";
import { areSimilar, printable } from "./text.ts";

type Script = (args: string[], env: typeof Bun.env) => Promise<number>;

/** Loads a script when it is used: the start of one must not load them all. */
const SCRIPTS: Record<string, () => Promise<Script>> = {
  populate: async () => (await import("./scripts/populate.ts")).populate,
  import: async () => (await import("./scripts/import.ts")).importOrders,
  audit: async () => (await import("./scripts/audit.ts")).audit,
  redrive: async () => (await import("./scripts/redrive.ts")).redrive,
  "copy-store": async () => (await import("./scripts/copy-store.ts")).copyStore,
  health: async () => (await import("./scripts/health.ts")).health,
};

const HELP = `Counts every order of an SQS queue exactly once and serves the totals over HTTP.

Usage: orders [command] [options]

  start             run the program; the default
  populate          send generated orders to the queue
  import            send the orders of files to the queue
  audit             prove that the sums in the store agree
  redrive           list the dead letters, or move them back to the queue or to a file
  copy-store        copy the whole store into an empty Redis or Redis Cluster
  health            print the health of the program on this machine
  --version         print the version
  --help            print this text

\`orders populate --help\` prints the options of populate, and so on. Environment variables configure the program.`;

const words = process.argv.slice(2);
const [name = "start", ...args] = words;
const script = Object.hasOwn(SCRIPTS, name) ? await SCRIPTS[name]?.() : undefined;
if (script) process.exit(await script(args, Bun.env));

switch (words.join(" ")) {
  case "":
  case "start":
    await (await import("./index.ts")).main();
    break;
  case "-h":
  case "help":
  case "--help":
  case "start --help":
    console.log(HELP);
    break;
  case "--version":
    console.log(version);
    break;
  default: {
    const similar = ["start", ...Object.keys(SCRIPTS)].find((known) => areSimilar(known, name));
    console.error(
      printable(`Unknown command "${words.join(" ")}": ${similar ? `did you mean ${similar}?` : "see orders --help"}`),
    );
    process.exit(2);
  }
}
