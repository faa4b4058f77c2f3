import { expect, setDefaultTimeout, test } from "bun:test";
import { runCell } from "./faults/restarts.ts";
import { runFaults } from "./faults/run.ts";

// Real processes on a busy machine: bun's five seconds would fail a test that is only slow.
setDefaultTimeout(60_000);

// With the next test at the same time: most of the time each of them waits for the next stop.
// All combinations of faults and stops: `bun run test:faults --restarts`.
test.concurrent.each(["full:sigterm", "read_only:kill", "no_replica:rolling_restart"])(
  "stops while the store is unavailable dead-letter no good order: %s",
  async (cell) => {
    const report = await runCell(cell);
    expect(report).toMatchObject({ differences: [], auditFindings: [], goodOrdersDeadLettered: 0, rejectsMissing: 0 });
  },
);

test.concurrent("kills, outages and a failing network lose nothing and count nothing twice", async () => {
  const seed = Math.floor(Math.random() * 1_000_000);
  console.log(`faults: seed ${seed}; the long run is \`bun run test:faults\``);
  const report = await runFaults({ seed, orders: 5000, kills: 8, outages: 8 }, () => {});
  expect(report).toMatchObject({ differences: [], auditFindings: [], goodOrdersDeadLettered: 0, rejectsMissing: 0 });
  expect(report.repeatedDeliveries).toBeGreaterThan(100);
}, 180_000);

test("masters that die, hang and move their slots lose nothing and count nothing twice", async () => {
  const seed = Math.floor(Math.random() * 1_000_000);
  console.log(`faults in a cluster: seed ${seed}; the long run is \`bun run test:faults --cluster replicated\``);
  const report = await runFaults({ seed, orders: 5000, kills: 3, outages: 3, cluster: "replicated" }, () => {});
  expect(report).toMatchObject({ differences: [], auditFindings: [], goodOrdersDeadLettered: 0, rejectsMissing: 0 });
  expect(report.deliveries).toBeGreaterThan(5000);
}, 180_000);
