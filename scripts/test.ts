// `bun run test`: puts redis-server in place where it is missing, then runs `bun test` with the arguments it was given.
// Without Redis the store's contract would be tested against SQLite alone, so its absence stops the run.

// Shells started by an editor or by cron often lack the last two, where Redis built by hand and Homebrew's are.
const PATH = [process.env.PATH, "/usr/local/bin", "/opt/homebrew/bin"].filter(Boolean).join(":");
const env = { ...process.env, PATH };

const has = (program: string) => Bun.which(program, { PATH }) !== null;

/** The commands that install Redis on this machine; none where its package manager is not known. */
function installCommands(): string[][] {
  const asRoot = process.getuid?.() === 0 || !has("sudo") ? [] : ["sudo"];
  if (has("apt-get")) return aptCommands(asRoot);
  if (has("apk")) return [[...asRoot, "apk", "add", "--no-cache", "redis"]];
  if (has("brew")) return [["brew", "install", "redis"]];
  return [];
}

/** RUNLEVEL=1 keeps Debian's package from starting a server on 6379, but not where systemd runs the machine. */
function aptCommands(asRoot: string[]): string[][] {
  // sudo drops the environment, `env` behind it does not.
  const apt = [...asRoot, "env", "RUNLEVEL=1", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q"];
  return [
    [...apt, "update"],
    [...apt, "install", "-y", "--no-install-recommends", "redis-server"],
  ];
}

/** Judged by redis-server being there, not by exit codes: `apt-get update` fails where one of many sources does. */
function installRedis(): boolean {
  for (const command of installCommands()) {
    console.error(`redis-server is missing: ${command.join(" ")}`);
    Bun.spawnSync(command, { env, stdio: ["inherit", "inherit", "inherit"] });
  }
  return has("redis-server");
}

/** The exit code of `bun test`. */
async function runTests(): Promise<number> {
  const tests = Bun.spawn([process.execPath, "test", ...process.argv.slice(2)], {
    env,
    stdio: ["inherit", "inherit", "inherit"],
  });
  // A terminal sends Ctrl-C to both; SIGTERM comes to this process alone.
  process.on("SIGINT", () => {});
  process.on("SIGTERM", () => tests.kill("SIGTERM"));
  return await tests.exited;
}

if (!has("redis-server") && !installRedis()) {
  console.error(
    "The tests need redis-server: `apt-get install redis-server` or `brew install redis`, then run them again.",
  );
  process.exit(1);
}
process.exit(await runTests());

export {};
