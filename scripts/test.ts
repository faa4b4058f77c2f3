// `bun run test`: puts in place what the tests need and this machine lacks, then runs `bun test` with the arguments it
// was given. A test that cannot run for want of a program would say nothing, so its absence stops the run.

/** What the tests start, by any of its names, and the package that brings it; brew's as arguments. */
interface Need {
  programs: string[];
  apt: string;
  apk: string;
  brew: string[];
}

const NEEDS: Need[] = [
  { programs: ["redis-server"], apt: "redis-server", apk: "redis", brew: ["redis"] },
  { programs: ["promtool"], apt: "prometheus", apk: "prometheus", brew: ["prometheus"] },
  {
    programs: ["chromium", "chromium-browser", "google-chrome"],
    apt: "chromium",
    apk: "chromium",
    brew: ["--cask", "chromium"],
  },
];

// Shells started by an editor or by cron often lack the last two, where Redis built by hand and Homebrew's are.
const PATH = [process.env.PATH, "/usr/local/bin", "/opt/homebrew/bin"].filter(Boolean).join(":");
const env = { ...process.env, PATH };

const has = (program: string) => Bun.which(program, { PATH }) !== null;
const missing = () => NEEDS.filter(({ programs }) => !programs.some(has));

/** The commands that install these on this machine; none where its package manager is not known. */
function installCommands(needs: Need[]): string[][] {
  const asRoot = process.getuid?.() === 0 || !has("sudo") ? [] : ["sudo"];
  if (has("apt-get")) return aptCommands(asRoot, needs);
  if (has("apk")) return [[...asRoot, "apk", "add", "--no-cache", ...needs.map(({ apk }) => apk)]];
  if (has("brew")) return needs.map(({ brew }) => ["brew", "install", ...brew]);
  return [];
}

/** RUNLEVEL=1 keeps Debian's packages from starting servers on 6379 and 9090, but not where systemd runs the machine. */
function aptCommands(asRoot: string[], needs: Need[]): string[][] {
  // sudo drops the environment, `env` behind it does not.
  const apt = [...asRoot, "env", "RUNLEVEL=1", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q"];
  return [
    [...apt, "update"],
    // Without the recommended: for prometheus that is one more server.
    [...apt, "install", "-y", "--no-install-recommends", ...needs.map(({ apt }) => apt)],
  ];
}

/** Answers what is still missing, not exit codes: `apt-get update` fails where one of many sources does. */
function install(needs: Need[]): Need[] {
  for (const command of installCommands(needs)) {
    console.error(`${names(needs)} missing: ${command.join(" ")}`);
    Bun.spawnSync(command, { env, stdio: ["inherit", "inherit", "inherit"] });
  }
  return missing();
}

const names = (needs: Need[]) => needs.map(({ programs }) => programs[0]).join(", ");

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

const absent = missing();
const lacking = absent.length > 0 ? install(absent) : [];
for (const { programs, apt, brew } of lacking) {
  const commands = `\`apt-get install ${apt}\` or \`brew install ${brew.join(" ")}\``;
  console.error(`The tests need ${programs.join(" or ")}: ${commands}, then run them again.`);
}
process.exit(lacking.length > 0 ? 1 : await runTests());

export {};
