import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { cpSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { YAML } from "bun";
import { readConfig } from "../config.ts";
import { type Running, start } from "../index.ts";
import { openQueue } from "../queue/queue.ts";
import { body } from "./support/orders.ts";
import { temporaryFolder } from "./support/program.ts";
import { promtool, scrape } from "./support/prometheus.ts";
import { waitFor } from "./support/wait-for.ts";

// Real processes on a busy machine: bun's five seconds would fail a test that is only slow.
setDefaultTimeout(60_000);

const ROOT = join(import.meta.dir, "..");
const FOLDER = join(ROOT, "observability");
const read = (path: string) => readFileSync(join(ROOT, path), "utf8");

interface Alert {
  alert: string;
  expr: string;
  for: string;
  labels: { severity: string };
  annotations: { summary: string; description: string; runbook_url: string };
}
const rules = YAML.parse(read("observability/alerts.yml")) as { groups: { rules: Alert[] }[] };
const alerts = rules.groups.flatMap((group) => group.rules);

interface Panel {
  id: number;
  type: string;
  title: string;
  description?: string;
  datasource?: { uid: string };
  targets?: { expr: string }[];
}
const dashboard = JSON.parse(read("observability/dashboard.json"));
const panels = (dashboard.panels as Panel[]).filter(({ type }) => type !== "row");

/** The queries of the dashboard as Grafana sends them. */
const queries = panels.flatMap(({ title, targets = [] }) =>
  targets.map(({ expr }) => ({
    title,
    expr: expr.replaceAll("$__rate_interval", "1m").replaceAll("$__range", "1h").replaceAll("$job", "orders"),
  })),
);

interface ScaledObject {
  kind: string;
  spec: { triggers: { metadata: { query: string } }[] };
}
const objects = YAML.parse(read("deploy/kubernetes.yaml")) as ScaledObject[];
const scaled = objects.find(({ kind }) => kind === "ScaledObject");
/** The queries that KEDA sends to Prometheus. */
const triggers = scaled?.spec.triggers.map(({ metadata }) => ({ expr: metadata.query })) ?? [];

describe("Prometheus accepts", () => {
  test("its configuration, rules included", async () => {
    const dir = join(temporaryFolder(), "observability");
    cpSync(FOLDER, dir, { recursive: true });
    writeFileSync(join(dir, "api_key"), "unset"); // as compose.yaml does
    const { code, output } = await promtool(["check", "config", join(dir, "prometheus.yml")]);
    expect(code, output).toBe(0);
    expect(output).toContain(`${alerts.length} rules found`);
  });

  test("the alerts: they fire when they should, and not before", async () => {
    const { code, output } = await promtool(["test", "rules", join(import.meta.dir, "alerts.promtool.yml")]);
    expect(code, output).toBe(0);
  });

  test("every query of the dashboard and of the autoscaler", async () => {
    const recorded = [...queries, ...triggers].map(({ expr }, index) => ({ record: `query:${index}`, expr }));
    const path = join(temporaryFolder(), "queries.yml");
    writeFileSync(path, JSON.stringify({ groups: [{ name: "dashboard", rules: recorded }] }));
    const { code, output } = await promtool(["check", "rules", path]);
    expect(code, output).toBe(0);
    expect(queries.length).toBeGreaterThan(20);
  });
});

describe("a running program has every metric that is queried in", () => {
  let running: Running;
  let names: Set<string>;
  beforeAll(async () => {
    const env = { PORT: "0", EMBEDDED_QUEUE_PORT: "0", CONSUMER_WORKERS: "1", LOG_LEVEL: "silent" };
    running = await start(readConfig({ ...env, DATA_DIR: temporaryFolder() }));
    const queue = openQueue({
      url: running.queueUrl,
      endpoint: running.endpoint ?? "",
      embedded: true,
      visibilityTimeoutSeconds: 30,
      client: "fetch",
    });
    await queue.send([body()]);
    queue.close();
    await waitFor("a counted order", async () => {
      const { samples } = await scrape(running.url);
      return samples.get('orders_total{outcome="counted"}') === 1;
    });
    names = (await scrape(running.url)).names;
  });
  afterAll(() => running.stop());

  /** Metrics of Prometheus itself. */
  const OWN = ["up"];
  const unknown = (expr: string) => metricsOf(expr).filter((name) => !names.has(name) && !OWN.includes(name));

  test.each(queries)("the panel $title: $expr", ({ expr }) => {
    expect(metricsOf(expr)).not.toEqual([]);
    expect(unknown(expr)).toEqual([]);
  });

  test.each(alerts)("the alert $alert", ({ expr }) => {
    expect(metricsOf(expr)).not.toEqual([]);
    expect(unknown(expr)).toEqual([]);
  });

  test.each(triggers)("the autoscaler: $expr", ({ expr }) => {
    expect(metricsOf(expr)).not.toEqual([]);
    expect(unknown(expr)).toEqual([]);
  });

  test("and a metric that it does not have would be found", () => {
    expect(unknown('sum by (le) (rate(orders_lost_total{job="orders"}[5m])) > bool 0.5')).toEqual([
      "orders_lost_total",
    ]);
  });
});

/** The metric names of a query: the identifiers that are no label, function or keyword. */
function metricsOf(expr: string): string[] {
  const bare = expr
    .replaceAll(/\{[^}]*\}|\[[^\]]*\]|"[^"]*"/g, " ")
    .replaceAll(/\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)/g, " ");
  const words = [...bare.matchAll(/[a-zA-Z_:][\w:]*(?!\w*\s*\()/g)].map(([word]) => word);
  return words.filter((word) => !["and", "or", "unless", "bool", "offset"].includes(word));
}

describe("docs/operating.md", () => {
  const sections = read("docs/operating.md").split(/^#+ /m);
  const anchorOf = (section: string) => (section.split("\n")[0] ?? "").toLowerCase().replaceAll(" ", "-");

  test.each(alerts)("has the runbook of $alert", ({ alert, annotations }) => {
    expect(annotations.runbook_url).toBe(`docs/operating.md#${alert.toLowerCase()}`);
    const section = sections.find((section) => anchorOf(section) === alert.toLowerCase());
    expect(section).toBeDefined();
    for (const part of ["**Means:**", "1. ", "2. ", "3. ", "**Do:**", "**Do not:**"]) expect(section).toContain(part);
  });

  test("every alert has a severity, a duration, a summary and a description", () => {
    for (const { alert, labels, annotations, ...rule } of alerts) {
      expect(["critical", "warning"], alert).toContain(labels.severity);
      expect(rule.for, alert).toMatch(/^\d+m$/);
      expect(annotations.summary, alert).toBeString();
      expect(annotations.description, alert).toBeString();
    }
  });
});

describe("the dashboard", () => {
  test("finds its Prometheus by a variable, never by a fixed id: imported by hand or provisioned", () => {
    const variables = dashboard.templating.list as { name: string; type: string; query: unknown }[];
    expect(variables[0]).toMatchObject({ name: "datasource", type: "datasource", query: "prometheus" });
    for (const { datasource } of panels) expect(datasource?.uid).toMatch(/^\$\{datasource\}$/);
    expect(dashboard.__inputs).toBeUndefined();
  });

  test("every panel has an id of its own and a description", () => {
    expect(new Set(panels.map(({ id }) => id)).size).toBe(panels.length);
    for (const { title, description } of panels) expect(description, title).toBeString();
  });
});

test("compose.yaml starts Prometheus and Grafana with files that exist, on loopback, and only when asked", () => {
  const { services } = YAML.parse(read("compose.yaml")) as {
    services: Record<string, { image: string; profiles: string[]; ports: string[]; volumes: string[] }>;
  };
  for (const name of ["prometheus", "grafana"]) {
    const { image, profiles, ports, volumes } = services[name] ?? { image: "", profiles: [], ports: [], volumes: [] };
    expect(image).toMatch(/:v?\d+\.\d+\.\d+$/);
    expect(profiles).toEqual(["observability"]);
    for (const port of ports) expect(port).toStartWith("127.0.0.1:");
    const files = volumes.flatMap((volume) => (volume.startsWith("./") ? [volume.split(":")[0] ?? ""] : []));
    expect(files.length).toBeGreaterThan(1);
    for (const file of files) expect(read(file).length, file).toBeGreaterThan(0);
  }
});
