/** Runs Prometheus' own checker; `code` is 0 where it finds no problem. */
export async function promtool(args: string[], stdin = ""): Promise<{ code: number; output: string }> {
  const path = Bun.which("promtool");
  if (!path) throw new Error("promtool is missing: get it with `bun run test`, or apt-get install prometheus");
  const child = Bun.spawn([path, ...args], { stdin: new Blob([stdin]), stdout: "pipe", stderr: "pipe" });
  const [stdout, stderr] = await Promise.all([child.stdout.text(), child.stderr.text()]);
  return { code: await child.exited, output: stdout + stderr };
}

/** The /metrics of a program at one moment. */
export interface Scrape {
  text: string;
  /** By series, for example `queue_messages{state="visible"}`. */
  samples: Map<string, number>;
  /** Every name that a query may use, also those without a sample. */
  names: Set<string>;
}

/** Reads /metrics of a program. */
export async function scrape(url: string): Promise<Scrape> {
  const text = await (await fetch(`${url}/metrics`)).text();
  const lines = text.split("\n").filter((line) => line !== "" && !line.startsWith("#"));
  const samples = new Map(
    lines.map((line) => {
      const at = line.lastIndexOf(" ");
      return [line.slice(0, at), Number(line.slice(at + 1).replace("+Inf", "Infinity"))];
    }),
  );
  const declared = [...text.matchAll(/^# TYPE (\w+) (?:counter|gauge)$/gm)].map(([, name]) => name ?? "");
  return { text, samples, names: new Set([...declared, ...lines.map((line) => /^\w+/.exec(line)?.[0] ?? "")]) };
}
