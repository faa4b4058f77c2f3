// `bun run test`: puts redis-server in place where it is missing, then runs `bun test` with the arguments it was given.
// Without Redis the store's contract would be tested against SQLite alone, so its absence stops the run.

// Shells started by an editor or by cron often lack the last two, where Redis built by hand and Homebrew's are.
const PATH = [process.env.PATH, "/usr/local/bin", "/opt/homebrew/bin"].filter(Boolean).join(":");
const env = { ...process.env, PATH };

const has = (program: string) => Bun.which(program, { PATH }) !== null;

const asRoot = process.getuid?.() === 0 || !has("sudo") ? [] : ["sudo"];
// RUNLEVEL=1 keeps Debian's package from starting a server on 6379. sudo drops the environment, `env` behind it does not.
const apt = [...asRoot, "env", "RUNLEVEL=1", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q"];

/** The commands that install Redis, by the package manager that this machine has. */
const INSTALL: Record<string, string[][]> = {
  "apt-get": [
    [...apt, "update"],
    [...apt, "install", "-y", "--no-install-recommends", "redis-server"],
  ],
  apk: [[...asRoot, "apk", "add", "--no-cache", "redis"]],
  brew: [["brew", "install", "redis"]],
};

/** Judged by redis-server being there, not by exit codes: `apt-get update` fails where one of many sources does. */
function installRedis(): boolean {
  for (const command of INSTALL[Object.keys(INSTALL).find(has) ?? ""] ?? []) {
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
