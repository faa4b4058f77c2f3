import { expect, test } from "bun:test";
import { eventsOf } from "./support/program.ts";

test("an error is logged with its message and its cause, one JSON object a line", async () => {
  const source = `import { createLog } from "./log.ts";
    const error = new Error("outer", { cause: new Error("inner") });
    createLog({ level: "info", pretty: false }, { worker: 3 }).error({ event: "failed", error });`;
  const child = Bun.spawn([process.execPath, "-e", source], { cwd: `${import.meta.dir}/..`, stdout: "pipe" });
  const [line] = eventsOf(await new Response(child.stdout).text());
  expect(line).toMatchObject({ level: "error", event: "failed", worker: 3 });
  expect(JSON.stringify(line?.error)).toContain('"message":"outer');
  expect(JSON.stringify(line?.error)).toContain("inner");
});
