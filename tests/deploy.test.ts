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
import { cloudFormationProblems, type Template } from "./support/cloudformation.ts";
import { composeProblems, kubernetesProblems } from "./support/schemas.ts";

// The compiler runs, and AWS's specification is large: bun's five seconds would fail a test that is only slow.
setDefaultTimeout(30_000);

const read = (path: string) => readFileSync(join(import.meta.dir, "..", path), "utf8");

const SCHEMAS = {
  "compose.yaml": composeProblems,
  "deploy/kubernetes.yaml": kubernetesProblems,
  "deploy/ecs.yaml": cloudFormationProblems,
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
    ["deploy/ecs.yaml", "StopTimeout:", "StopTimeoutSeconds:"],
    ["deploy/ecs.yaml", "TargetValue: 300", "TargetValue: five minutes"],
    ["deploy/ecs.yaml", "      MinCapacity: 2\n", ""],
    ["deploy/ecs.yaml", "AWS::ECS::Service", "AWS::ECS::Servise"],
    ["deploy/ecs.yaml", "Effect: Allow", "Effekt: Allow"],
    ["deploy/ecs.yaml", "{ Ref: Capacity }", "{ Ref: Target }"],
    ["deploy/ecs.yaml", "{Service.Name}", "{Service.Nam}"],
    ["deploy/ecs.yaml", "Dimensions: [", "Dimensions: &queue ["],
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

const template = YAML.parse(read("deploy/ecs.yaml")) as Template;
const properties = <T>(resource: string) => template.Resources[resource]?.Properties as T;
interface NamedValue {
  Name: string;
  Value?: string | Record<string, string>;
}
const [definition] = properties<{
  ContainerDefinitions: { Environment: NamedValue[]; Secrets: NamedValue[]; StopTimeout: number }[];
}>("Task").ContainerDefinitions;

/** A secret's value is not in the manifests. */
const SECRETS = { REDIS_URL: "rediss://redis.example.com", API_KEY: "secret" };
const secret = (name: string) => SECRETS[name as keyof typeof SECRETS];
/** What CloudFormation makes of a value: names of this or that are a letter here. */
const filledIn = (value: NamedValue["Value"]) =>
  typeof value === "object" ? (value["Fn::Sub"]?.replaceAll(/\$\{[^}]+\}/g, "x") ?? "x") : value;

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
  {
    path: "deploy/ecs.yaml",
    env: [
      ...(definition?.Environment ?? []).map(({ Name, Value }) => [Name, filledIn(Value)]),
      ...(definition?.Secrets ?? []).map(({ Name }) => [Name, secret(Name)]),
    ],
    stopSeconds: definition?.StopTimeout ?? 0,
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

  test("ECS asks /, since it replaces what its load balancer finds unhealthy", () => {
    expect(properties<{ HealthCheckPath: string }>("Targets").HealthCheckPath).toBe("/");
  });

  test("the proxy of compose asks /", () => {
    expect(compose.configs.haproxy?.content).toContain("http-check send meth GET uri / ");
  });
});

describe("images", () => {
  const { version } = JSON.parse(read("package.json")) as { version: string };
  const ours = [container?.image ?? "", `${template.Parameters.Image?.Default}`];
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

test("Kubernetes and ECS scale by the same numbers", () => {
  const capacity = properties<{ MinCapacity: number; MaxCapacity: number }>("Capacity");
  expect([scaled.minReplicaCount, scaled.maxReplicaCount]).toEqual([capacity.MinCapacity, capacity.MaxCapacity]);
  expect(capacity.MinCapacity).toBe(2);
  const { TargetTrackingScalingPolicyConfiguration: policy } = properties<{
    TargetTrackingScalingPolicyConfiguration: {
      TargetValue: number;
      CustomizedMetricSpecification: { Metrics: { Expression?: string }[] };
    };
  }>("DrainTime");
  expect(scaled.triggers[0]?.metadata.threshold).toBe(`${policy.TargetValue}`);
  // Where nothing moves the metric is the target, which changes nothing.
  const expression = policy.CustomizedMetricSpecification.Metrics.at(-1)?.Expression ?? "";
  expect(expression).toContain(`== 0), ${policy.TargetValue}, `);
});

test("what is not known changes nothing on Kubernetes: a query without an answer is an error, not 0", () => {
  expect(scaled.triggers).toHaveLength(2);
  for (const { metadata } of scaled.triggers) {
    expect(metadata.ignoreNullValues).toBe("false");
    // To the schema they are any words.
    expect(Object.keys(metadata).sort()).toEqual(["ignoreNullValues", "query", "serverAddress", "threshold"]);
  }
});

test("the role on ECS has the rights that README.md lists, and no others", () => {
  const [, ofQueue = "", ofDeadLetterQueue = ""] =
    /process needs\s(.*?) on the queue,\s(.*?) on its dead-letter queue/s.exec(read("README.md")) ?? [];
  const rights = (text: string) => [...text.matchAll(/`(?:sqs:)?(\w+)`/g)].map(([, action]) => `sqs:${action}`);
  const { Policies } = properties<{
    Policies: { PolicyDocument: { Statement: { Action: string[]; Resource: { "Fn::Sub": string } }[] } }[];
  }>("TaskRole");
  const statements = Policies.flatMap(({ PolicyDocument }) => PolicyDocument.Statement);
  expect(statements.map(({ Action }) => Action)).toEqual([rights(ofQueue), rights(ofDeadLetterQueue)]);
  const queues = statements.map(({ Resource }) => /\{(\w+)\}$/.exec(Resource["Fn::Sub"])?.[1]);
  expect(queues).toEqual(["Queue", "DeadLetterQueue"]);
});
