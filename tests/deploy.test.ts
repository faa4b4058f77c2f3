import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { YAML } from "bun";
import { readConfig } from "../config.ts";
import { composeProblems } from "./support/schemas.ts";

const read = (path: string) => readFileSync(join(import.meta.dir, "..", path), "utf8");

const SCHEMAS = {
  "compose.yaml": composeProblems,
};
type Path = keyof typeof SCHEMAS;

describe("the schema of", () => {
  test.each(Object.keys(SCHEMAS) as Path[])("%s has nothing against it", async (path) => {
    expect(await SCHEMAS[path](read(path))).toEqual([]);
  });

  test.each<[Path, string, string]>([
    ["compose.yaml", "stop_grace_period:", "stop_grace:"],
    ["compose.yaml", "condition: service_healthy", "condition: healthy"],
    ["compose.yaml", "    content: $", "    contents: $"],
  ])("%s would find %p written as %p", async (path, right, wrong) => {
    expect(read(path)).toContain(right);
    expect(await SCHEMAS[path](read(path).replace(right, wrong))).not.toEqual([]);
  });
});

interface ComposeService {
  image?: string;
  environment?: Record<string, string | number | null>;
  stop_grace_period?: string;
  ports?: string[];
  container_name?: string;
}
const compose = YAML.parse(read("compose.yaml")) as {
  services: Record<string, ComposeService>;
  configs: Record<string, { content: string }>;
};
const app = compose.services.app ?? {};

/** How each manifest starts and stops the program. */
const PROGRAMS = [
  {
    path: "compose.yaml",
    env: Object.entries(app.environment ?? {}).map(([name, value]) => [name, value === null ? undefined : `${value}`]),
    stopSeconds: Number.parseInt(app.stop_grace_period ?? "", 10),
  },
];

/** What the AWS SDK reads in place of config.ts. */
const OF_THE_SDK = ["AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"];

describe.each(PROGRAMS)("$path", ({ env, stopSeconds }) => {
  test("gives the program more than the ten seconds in which it stops", () => {
    expect(stopSeconds).toBeWithin(11, 121);
  });

  test("sets only variables that the program knows, to values that it takes in production", () => {
    const names = env.map(([name]) => name ?? "");
    const asked = new Set<string | symbol>(OF_THE_SDK);
    const recorder = new Proxy(Object.fromEntries(env), {
      get(target, name) {
        asked.add(name);
        return Reflect.get(target, name);
      },
    });
    const { queue, store, http } = readConfig(recorder);
    expect(names.filter((name) => !asked.has(name))).toEqual([]);
    expect(Object.fromEntries(env).NODE_ENV).toBe("production");
    expect([queue.kind, store.kind, http.host, http.port]).toEqual(["sqs", "redis", "0.0.0.0", 8000]);
  });
});

describe("a process is ended only when it does not answer, never for what /health says of Redis and the queue:", () => {
  test("the proxy of compose asks /", () => {
    expect(compose.configs.haproxy?.content).toContain("http-check send meth GET uri / ");
  });
});

describe("images", () => {
  const stages = [...read("Dockerfile").matchAll(/^FROM (\S+)(?: AS (\S+))?/gm)];
  const bases = stages.map(([, image = ""]) => image).filter((image) => !stages.some(([, , stage]) => stage === image));
  const others = Object.values(compose.services).flatMap(({ image }) => image ?? []);

  test.each([...bases, ...others])("%s is of one version", (image) => {
    // A tag can be moved and a digest cannot; digests are for the registry that you copy the images to.
    expect(image).toMatch(/^[\w./-]+:v?\d+\.\d+\.\d+(-[a-z]+)?$/);
  });

  test("are all of them", () => {
    expect(bases).toHaveLength(1);
    expect(others).toHaveLength(5);
  });
});

test("`--scale` can start any number: replicas of compose share no name and no port of this machine", () => {
  expect(app.container_name).toBeUndefined();
  expect(app.ports).toBeUndefined();
});
