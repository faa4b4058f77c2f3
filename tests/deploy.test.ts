import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { IScaledObject } from "@kubernetes-models/keda/keda.sh/v1alpha1/ScaledObject";
import type { IPodMonitor } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PodMonitor";
import { YAML } from "bun";
import type { IDeployment } from "kubernetes-models/apps/v1/Deployment";
import type { IPodDisruptionBudget } from "kubernetes-models/policy/v1/PodDisruptionBudget";
import type { IService } from "kubernetes-models/v1/Service";
import { readConfig } from "../config.ts";
import { composeProblems, kubernetesProblems } from "./support/schemas.ts";

// The compiler runs: bun's five seconds would fail a test that is only slow.
setDefaultTimeout(30_000);

const read = (path: string) => readFileSync(join(import.meta.dir, "..", path), "utf8");

const SCHEMAS = {
  "compose.yaml": composeProblems,
  "deploy/kubernetes.yaml": kubernetesProblems,
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
    ["deploy/kubernetes.yaml", "livenessProbe:", "livenesProbe:"],
    ["deploy/kubernetes.yaml", "maxUnavailable: 1", "maxUnavailabel: 1"],
    ["deploy/kubernetes.yaml", "minReplicaCount: 2", "minReplicas: 2"],
    ["deploy/kubernetes.yaml", 'value: "1"', "value: 1"],
    ["deploy/kubernetes.yaml", "  scaleTargetRef: { name: orders }\n", ""],
    ["deploy/kubernetes.yaml", "jobLabel:", "job:"],
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

const objects = YAML.parse(read("deploy/kubernetes.yaml")) as { kind: string }[];
const object = <T>(kind: string) => objects.find((each) => each.kind === kind) as T;
const deployment = object<IDeployment>("Deployment");
const pod = deployment.spec?.template.spec;
const container = pod?.containers[0];
const scaled = object<IScaledObject>("ScaledObject").spec;

/** A secret's value is not in the manifests. */
const SECRETS = { REDIS_URL: "rediss://redis.example.com", API_KEY: "secret" };
const secret = (name: string) => SECRETS[name as keyof typeof SECRETS];

/** How each manifest starts and stops the program. */
const PROGRAMS = [
  {
    path: "compose.yaml",
    env: Object.entries(app.environment ?? {}).map(([name, value]) => [name, value === null ? undefined : `${value}`]),
    stopSeconds: Number.parseInt(app.stop_grace_period ?? "", 10),
  },
  {
    path: "deploy/kubernetes.yaml",
    env: (container?.env ?? []).map(({ name, value }) => [name, value ?? secret(name)]),
    // The hook has its share of the time.
    stopSeconds: (pod?.terminationGracePeriodSeconds ?? 0) - Number(container?.lifecycle?.preStop?.exec?.command?.[1]),
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
  test("Kubernetes asks / and leaves out of the Service what is not ready", () => {
    expect(container?.startupProbe?.httpGet?.path).toBe("/");
    expect(container?.livenessProbe?.httpGet?.path).toBe("/");
    expect(container?.readinessProbe?.httpGet?.path).toBe("/ready");
  });

  test("the proxy of compose asks /", () => {
    expect(compose.configs.haproxy?.content).toContain("http-check send meth GET uri / ");
  });
});

describe("images", () => {
  const { version } = JSON.parse(read("package.json")) as { version: string };
  const ours = [container?.image ?? ""];
  const stages = [...read("Dockerfile").matchAll(/^FROM (\S+)(?: AS (\S+))?/gm)];
  const bases = stages.map(([, image = ""]) => image).filter((image) => !stages.some(([, , stage]) => stage === image));
  const others = Object.values(compose.services).flatMap(({ image }) => image ?? []);

  test.each([...ours, ...bases, ...others])("%s is of one version", (image) => {
    // A tag can be moved and a digest cannot; digests are for the registry that you copy the images to.
    expect(image).toMatch(/^[\w./-]+:v?\d+\.\d+\.\d+(-[a-z]+)?$/);
  });

  test("that are the program are of its version", () => {
    for (const image of ours) expect(image).toEndWith(`/order-stats:${version}`);
    expect(bases).toHaveLength(1);
    expect(others).toHaveLength(5);
  });
});

test("`--scale` can start any number: replicas of compose share no name and no port of this machine", () => {
  expect(app.container_name).toBeUndefined();
  expect(app.ports).toBeUndefined();
});

test("everything on Kubernetes speaks of the same pods", () => {
  const labels = deployment.spec?.template.metadata?.labels ?? {};
  expect(labels).not.toEqual({});
  const selectors = [
    deployment.spec?.selector.matchLabels,
    pod?.topologySpreadConstraints?.[0]?.labelSelector?.matchLabels,
    object<IService>("Service").spec?.selector,
    object<IPodDisruptionBudget>("PodDisruptionBudget").spec?.selector?.matchLabels,
    object<IPodMonitor>("PodMonitor").spec.selector.matchLabels,
  ];
  for (const selector of selectors) expect(selector).toEqual(labels);
  expect(scaled.scaleTargetRef.name).toBe(deployment.metadata?.name ?? "");
  expect(Object.values(labels)).toEqual(["orders"]); // the job of observability/alerts.yml, by jobLabel
});

test("what is not known changes nothing on Kubernetes: a query without an answer is an error, not 0", () => {
  expect(scaled.triggers).toHaveLength(2);
  for (const { metadata } of scaled.triggers) {
    expect(metadata.ignoreNullValues).toBe("false");
    // To the schema they are any words.
    expect(Object.keys(metadata).sort()).toEqual(["ignoreNullValues", "query", "serverAddress", "threshold"]);
  }
});
