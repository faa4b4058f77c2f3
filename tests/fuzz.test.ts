import { expect, setDefaultTimeout, test } from "bun:test";
import { checkResult, fuzzApi, fuzzValidation, startApi } from "./faults/fuzz.ts";

// Real processes on a busy machine: bun's five seconds would fail a test that is only slow.
setDefaultTimeout(60_000);

const seed = Math.floor(Math.random() * 1_000_000);

test(`validateOrder() turns any body into what the store and the dead-letter queue accept (seed ${seed})`, () => {
  fuzzValidation(10_000, seed);
});

test(`the API responds to any request, with a problem where it cannot (seed ${seed})`, async () => {
  const api = await startApi();
  await fuzzApi(api.url, 2_000, seed).finally(api.stop);
});

test("the check of the fuzzing finds a wrong answer", () => {
  const order = { id: "a", userId: "b", cents: 1, day: "2024-12-13" };
  expect(checkResult({ outcome: "counted", order })).toBe(true);
  expect(checkResult({ outcome: "counted", order: { ...order, cents: 1.5 } })).toBe(false);
  expect(checkResult({ outcome: "counted", order: { ...order, userId: "\ud800" } })).toBe(false);
  expect(checkResult({ outcome: "rejected", reason: "invalid_json", errors: [] })).toBe(false);
});
