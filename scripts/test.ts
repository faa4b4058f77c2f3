// `bun run test`: installs the programs that the tests need, then runs `bun test` with the same arguments. Without one of them the
// tests that use it could not run and would prove nothing, so the run stops.

const PROGRAMS = [
  { names: ["redis-server"], apt: "redis-server", apk: "redis", brew: "redis" },
  { names: ["promtool"], apt: "prometheus", apk: "prometheus", brew: "prometheus" },
  { names: ["chromium", "chromium-browser", "google-chrome"], apt: "chromium", apk: "chromium", brew: "chromium" },
];

// Shells started by an editor or by cron often lack the folders of Redis built by hand and of Homebrew.
const PATH = [process.env.PATH, "/usr/local/bin", "/opt/homebrew/bin"].filter(Boolean).join(":");
const env = { ...process.env, PATH };
const stdio = ["inherit", "inherit", "inherit"] as const;

const isInstalled = (name: string) => Bun.which(name, { PATH }) !== null;
const missingPrograms = () => PROGRAMS.filter(({ names }) => !names.some(isInstalled));

/** @returns the commands that install the programs, none if the package manager of this machine is not known */
function installCommands(programs: typeof PROGRAMS): string[][] {
  const sudo = process.getuid?.() === 0 || !isInstalled("sudo") ? [] : ["sudo"];
  // Debian's packages start no servers with RUNLEVEL=1 (except under systemd). Behind sudo, which drops the environment.
  const apt = [...sudo, "env", "RUNLEVEL=1", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q"];
  // Without the recommended packages: for prometheus that is one more server.
  const aptInstall = [...apt, "install", "-y", "--no-install-recommends", ...programs.map(({ apt }) => apt)];
  if (isInstalled("apt-get")) return [[...apt, "update"], aptInstall];
  if (isInstalled("apk")) return [[...sudo, "apk", "add", "--no-cache", ...programs.map(({ apk }) => apk)]];
  if (isInstalled("brew")) return [["brew", "install", ...programs.map(({ brew }) => brew)]];
  return [];
}

for (const command of missingPrograms().length > 0 ? installCommands(missingPrograms()) : []) {
  console.error(`Installing what the tests need: ${command.join(" ")}`);
  // Exit codes are ignored: `apt-get update` fails if one of many sources does. What is missing afterwards is reported.
  Bun.spawnSync(command, { env, stdio: [...stdio] });
}
for (const { names, apt, brew } of missingPrograms()) {
  console.error(
    `The tests need ${names.join(" or ")}: \`apt-get install ${apt}\` or \`brew install ${brew}\`, then retry`,
  );
}
if (missingPrograms().length > 0) process.exit(1);

// Four files at a time: the tests wait for processes more than they compute.
const tests = Bun.spawn([process.execPath, "test", "--parallel=4", ...process.argv.slice(2)], {
  env,
  stdio: [...stdio],
});
// A terminal sends Ctrl-C to both processes; SIGTERM reaches only this one.
process.on("SIGINT", () => {});
process.on("SIGTERM", () => tests.kill("SIGTERM"));
process.exit(await tests.exited);

export {};
