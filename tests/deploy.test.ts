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
import { locateQueue } from "../queue/setup.ts";
import { auditStore } from "../store/audit.ts";
import { openStore } from "../store/open.ts";
import { cloudFormationProblems, type Template } from "./support/cloudformation.ts";
import { install } from "./support/install.ts";
import { order } from "./support/orders.ts";
import { AWS, startProgram, temporaryFolder } from "./support/program.ts";
import { startTestEmulator } from "./support/queues.ts";
import { cli } from "./support/redis-cluster.ts";
import { startRedisServer } from "./support/redis-server.ts";
import { composeProblems, kubernetesProblems } from "./support/schemas.ts";
import { waitFor } from "./support/wait-for.ts";

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
  test.each(Object.keys(SCHEMAS) as Path[])("%s accepts it", async (path) => {
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
  ])("%s finds %p written as %p", async (path, right, wrong) => {
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
  user?: string;
  read_only?: boolean;
  cap_drop?: string[];
  security_opt?: string[];
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
/** A value as CloudFormation resolves it; every reference is one letter here. */
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
    // The preStop hook uses a part of the time.
    stopSeconds:
      (pod?.terminationGracePeriodSeconds ?? 0) - (container?.lifecycle?.preStop?.sleep?.seconds ?? Number.NaN),
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

/** Variables that the AWS SDK reads instead of config.ts. */
const SDK_VARIABLES = ["AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"];

describe.each(PROGRAMS)("$path", ({ env, stopSeconds }) => {
  test("gives the program more than the ten seconds in which it stops", () => {
    expect(stopSeconds).toBeWithin(11, 121);
  });

  test("sets only variables that the program reads, to values that it accepts in production", () => {
    const names = env.map(([name]) => name ?? "");
    const readNames = new Set<string | symbol>(SDK_VARIABLES);
    const recorder = new Proxy(Object.fromEntries(env), {
      get(target, name) {
        readNames.add(name);
        return Reflect.get(target, name);
      },
    });
    const { queue, store, http } = readConfig(recorder);
    expect(names.filter((name) => !readNames.has(name))).toEqual([]);
    expect(Object.fromEntries(env).NODE_ENV).toBe("production");
    expect([queue.kind, store.kind, http.host, http.port]).toEqual(["sqs", "redis", "0.0.0.0", 8000]);
  });
});

describe("a process is replaced only when it does not respond, never because Redis or the queue is unavailable:", () => {
  test("Kubernetes probes /, and the Service leaves out what is not ready", () => {
    expect(container?.startupProbe?.httpGet?.path).toBe("/");
    expect(container?.livenessProbe?.httpGet?.path).toBe("/");
    expect(container?.readinessProbe?.httpGet?.path).toBe("/ready");
  });

  test("ECS probes /, since it replaces what its load balancer finds unhealthy", () => {
    expect(properties<{ HealthCheckPath: string }>("Targets").HealthCheckPath).toBe("/");
  });

  test("the proxy of compose probes /", () => {
    expect(compose.configs.haproxy?.content).toContain("http-check send meth GET uri / ");
  });
});

describe("images", () => {
  const { version } = JSON.parse(read("package.json")) as { version: string };
  const ours = [container?.image ?? "", `${template.Parameters.Image?.Default}`];
  const stages = [...read("Dockerfile").matchAll(/^FROM (\S+)(?: AS (\S+))?/gm)];
  const bases = stages.map(([, image = ""]) => image).filter((image) => image !== "scratch");
  const others = Object.values(compose.services).flatMap(({ image }) => image ?? []);

  test.each([...ours, ...bases, ...others])("%s has an exact version", (image) => {
    // A tag can be moved and a digest cannot; digests are for the registry that you copy the images to.
    expect(image).toMatch(/^[\w./-]+:v?\d+\.\d+\.\d+(-[a-z]+)?$/);
  });

  test("of the program have its version", () => {
    for (const image of ours) expect(image).toEndWith(`/order-stats:${version}`);
    expect(read("Dockerfile")).toContain(`LABEL org.opencontainers.image.version=${version} `);
    expect(bases).toHaveLength(1);
    expect(others).toHaveLength(5);
  });
});

test("no container of compose has a capability or can gain one, and Redis and the program cannot write to their images", () => {
  for (const { cap_drop, security_opt } of Object.values(compose.services))
    expect([cap_drop, security_opt]).toEqual([["ALL"], ["no-new-privileges:true"]]);
  expect([app.read_only, compose.services.redis?.read_only]).toEqual([true, true]);
  // As root, its start script changes the user, for which it has no capability.
  expect(compose.services.redis?.user).toBe("redis");
});

describe("installing the dependencies", () => {
  test("runs no script of a package, not even of those that Bun trusts by default", async () => {
    const { dir, output } = await install();
    expect(output).not.toContain("Starting scripts for");
    const untrusted = await Bun.$`bun pm untrusted`.cwd(dir).text();
    // The only package with a script, so no other one needs its own.
    expect(untrusted.match(/^\.\/node_modules\/\S+|» \[\w+\]/gm)).toEqual([
      "./node_modules/@scarf/scarf",
      "» [postinstall]",
    ]);
  });

  test("for production leaves the embedded queue in place, patched", async () => {
    const { dir } = await install("--production");
    expect(readFileSync(join(dir, "node_modules/fauxqs/dist/app.js"), "utf8")).toContain("listenHost");
  });
});

test("`--scale` can start any number: replicas of compose share no name and no port of this machine", () => {
  expect(app.container_name).toBeUndefined();
  expect(app.ports).toBeUndefined();
});

test("everything on Kubernetes selects the same pods", () => {
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
  // Where nothing is processed the metric is the target, which changes nothing.
  const expression = policy.CustomizedMetricSpecification.Metrics.at(-1)?.Expression ?? "";
  expect(expression).toContain(`== 0), ${policy.TargetValue}, `);
});

test("an unknown rate changes nothing on Kubernetes: a query without a result is an error, not 0", () => {
  expect(scaled.triggers).toHaveLength(2);
  for (const { metadata } of scaled.triggers) {
    expect(metadata.ignoreNullValues).toBe("false");
    // The schema allows any names here.
    expect(Object.keys(metadata).sort()).toEqual(["ignoreNullValues", "query", "serverAddress", "threshold"]);
  }
});

describe("the IAM policies of docs/aws.md", () => {
  interface Policy {
    Statement: { Action: string | string[]; Resource: string | string[] }[];
  }
  const policies = [...read("docs/aws.md").matchAll(/```json\n(.*?)```/gs)].map(
    ([, text = ""]) => JSON.parse(text) as Policy,
  );
  // The last one is for SNS and EventBridge.
  const [program, ...others] = policies.slice(0, -1).map(({ Statement }) => Statement.map(({ Action }) => Action));

  test("are those of the role on ECS", () => {
    const { Policies } = properties<{
      Policies: { PolicyDocument: { Statement: { Action: string[]; Resource: { "Fn::Sub": string } }[] } }[];
    }>("TaskRole");
    const statements = Policies.flatMap(({ PolicyDocument }) => PolicyDocument.Statement);
    expect(statements.map(({ Action }) => Action)).toEqual(program as string[][]);
    const queues = statements.map(({ Resource }) => /\{(\w+)\}$/.exec(Resource["Fn::Sub"])?.[1]);
    expect(queues).toEqual(["Queue", "DeadLetterQueue"]);
  });

  test("allow what the code calls, and nothing else", () => {
    const files = ["queue", "scripts"].flatMap((dir) => [
      ...new Bun.Glob(`${dir}/*.ts`).scanSync(join(import.meta.dir, "..")),
    ]);
    const calls = files.flatMap((path) => [...read(path).matchAll(/new (\w+)Command\(|\bsend\("(\w+)"/g)]);
    // SQS has no permissions of its own for batches.
    const actions = calls.map(([, command, action]) => `sqs:${(command ?? action ?? "").replace(/Batch$/, "")}`);
    expect(actions.length).toBeGreaterThan(10);
    const allowed = [program, ...others].flat(3);
    expect([...new Set(actions)].sort()).toEqual([...new Set(allowed)].sort() as string[]);
  });

  test("are enough for the program and its commands, which use every right", async () => {
    const emulator = await startTestEmulator();
    await locateQueue({ name: "orders", endpoint: emulator.endpoint, embedded: true });
    const rights = policies.slice(0, 2).map(rightsOf);
    const proxies = rights.map((each) => startWithRights(emulator.endpoint, each));
    const [forProgram, forPerson] = proxies;
    const program = await startProgram({ ...forProgram?.env, DATA_DIR: temporaryFolder() });
    try {
      await runScript(["populate.ts", "--orders=20", "--invalid=50", "--seed=7"], forPerson?.env);
      const rejected = /orders_total\{outcome="rejected"\} [1-9]/;
      await waitFor("a rejected order", async () => rejected.test(await (await program.get("/metrics")).text()));
      // A list makes its messages visible again, which the move deletes.
      await runScript(["redrive.ts", "list"], forPerson?.env);
      await runScript(["redrive.ts", "back", "--limit=1"], forPerson?.env);
    } finally {
      program.kill("SIGTERM");
      await program.exited;
      await Promise.all([...proxies, emulator].map((server) => server.stop()));
    }
    expect(proxies.map(({ used }) => used)).toEqual(rights);
  });

  /** Rights as "action queue", such as "sqs:SendMessage orders-dlq". */
  function rightsOf({ Statement }: Policy): Set<string> {
    const rights = Statement.flatMap(({ Action, Resource }) =>
      [Action].flat().flatMap((action) => [Resource].flat().map((arn) => `${action} ${arn.split(":").at(-1)}`)),
    );
    return new Set(rights);
  }

  /** A proxy before the emulator that denies what these rights do not allow, as IAM does. */
  function startWithRights(endpoint: string, rights: Set<string>) {
    const used = new Set<string>();
    const server = Bun.serve({
      port: 0,
      hostname: "127.0.0.1",
      async fetch(request) {
        const body = await request.text();
        const { QueueName, QueueUrl = "" } = JSON.parse(body) as { QueueName?: string; QueueUrl?: string };
        const action = request.headers
          .get("x-amz-target")
          ?.split(".")[1]
          ?.replace(/Batch$/, "");
        const right = `sqs:${action} ${QueueName ?? QueueUrl.split("/").at(-1)}`;
        used.add(right);
        if (rights.has(right)) return await fetch(endpoint, { method: "POST", headers: request.headers, body });
        return Response.json({ __type: "com.amazonaws.sqs#AccessDeniedException", message: right }, { status: 403 });
      },
    });
    const url = `http://127.0.0.1:${server.port}`;
    const env = { ...AWS, AWS_ENDPOINT_URL: url, SQS_QUEUE_URL: `${url}/000000000000/orders` };
    return { env, used, stop: () => server.stop(true) };
  }

  async function runScript([name, ...options]: string[], env: Record<string, string> = {}) {
    const command = [process.execPath, `scripts/${name}`, ...options];
    const child = Bun.spawn(command, {
      cwd: join(import.meta.dir, ".."),
      env: { PATH: Bun.env.PATH, ...env },
      stderr: "pipe",
    });
    const errors = await child.stderr.text();
    expect(await child.exited, errors).toBe(0);
  }
});

test("the Redis user that docs/operating.md describes can count, read, audit and be the target of a copy", async () => {
  const [, command = ""] = /redis-cli (ACL SETUSER orders .*?)\n```/s.exec(read("docs/operating.md")) ?? [];
  const rules = command.replaceAll(/['\\]/g, "").split(/\s+/).slice(2);
  const redis = await startRedisServer();
  try {
    expect(await cli(redis.port, "ACL", "SETUSER", ...rules)).toBe("OK");
    const url = `redis://orders:PASSWORD@127.0.0.1:${redis.port}`;
    await copySqliteStore(url);
    const store = await openStore({ kind: "redis", url, timeZone: "UTC" });
    await store.checkThoroughly();
    expect(await store.record([order({ id: "copied" }), order({ id: "new" })])).toEqual(["duplicate", "recorded"]);
    expect(await store.global()).toMatchObject({ orders: 2 });
    const latest = [{ outcome: "duplicate", atMs: Date.now(), messageId: "m" }] as const;
    const old = { outcome: "duplicate", orderId: "old", count: 1, latest: [{ ...latest[0], atMs: 1 }] } as const;
    await store.addHistory([old, { outcome: "duplicate", orderId: "copied", count: 1, latest }]);
    expect((await store.history("copied")).duplicate).toMatchObject({ count: 1 });
    const { differences, users } = await auditStore(store, () => {});
    expect([differences, users]).toEqual([[], 1]);
    // These ignore missing rights; the log of Redis does not.
    expect(await store.configurationWarnings()).toEqual([]);
    expect(await store.evictedKeys()).toBe(0);
    await store.close();
    expect(await cli(redis.port, "ACL", "LOG")).toBe("");
  } finally {
    await redis.stop();
  }
});

/** Copies a store with one order to a Redis, with the command itself. */
async function copySqliteStore(url: string) {
  const dir = temporaryFolder();
  const source = await openStore({ kind: "sqlite", path: join(dir, "orders.db") });
  await source.record([order({ id: "copied" })]);
  await source.close();
  const copy = [process.execPath, "scripts/copy-store.ts", "--to", url];
  const child = Bun.spawn(copy, {
    cwd: join(import.meta.dir, ".."),
    // Nothing else: a REDIS_URL of the shell would be the source.
    env: { PATH: Bun.env.PATH, DATA_DIR: dir },
    stderr: "pipe",
  });
  const errors = await child.stderr.text();
  expect(await child.exited, errors).toBe(0);
}
