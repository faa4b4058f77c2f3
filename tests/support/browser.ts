import { type Browser, chromium } from "playwright-core";

const NAMES = ["chromium", "chromium-browser", "google-chrome"];
// Without these it looks for updates and hosts of its own, which a machine without internet refuses.
const QUIET = [
  "disable-background-networking",
  "disable-component-update",
  "disable-sync",
  "disable-quic",
  "no-first-run",
];

/** A real browser without a window, with a profile of its own, and with more flags where a test needs them. */
export async function openBrowser(flags: string[] = []): Promise<Browser> {
  const executablePath = NAMES.map((name) => Bun.which(name)).find((path) => path !== null);
  if (!executablePath) throw new Error("Chromium is missing: get it with `bun run test`, or apt-get install chromium");
  const args = [...QUIET, "no-sandbox", "disable-gpu", ...flags].map((flag) => `--${flag}`);
  return await chromium.launch({ executablePath, args });
}
