import { expect, setDefaultTimeout, test } from "bun:test";
import { runFaults } from "./faults/run.ts";

// Real processes on a busy machine: bun's five seconds would fail a test that is only slow.
setDefaultTimeout(60_000);

test("kills, outages and a failing network lose nothing and count nothing twice", async () => {
  const seed = Math.floor(Math.random() * 1_000_000);
  console.log(`faults: seed ${seed}; the long run is \`bun run test:faults\``);
  const report = await runFaults({ seed, orders: 5000, kills: 8, outages: 8 }, () => {});
  expect(report).toMatchObject({ differences: [], auditFindings: [], goodOrdersDead: 0, rejectsMissing: 0 });
  expect(report.repeatedDeliveries).toBeGreaterThan(100);
}, 180_000);

test("masters that die, hang and move their slots lose nothing and count nothing twice", async () => {
  const seed = Math.floor(Math.random() * 1_000_000);
  console.log(`faults in a cluster: seed ${seed}; the long run is \`bun run test:faults --cluster replicated\``);
  const report = await runFaults({ seed, orders: 5000, kills: 3, outages: 3, cluster: "replicated" }, () => {});
  expect(report).toMatchObject({ differences: [], auditFindings: [], goodOrdersDead: 0, rejectsMissing: 0 });
  expect(report.deliveries).toBeGreaterThan(5000);
}, 180_000);
