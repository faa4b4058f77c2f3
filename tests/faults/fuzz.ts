/** `bun run test:fuzz`: bodies for the validateOrder and requests for the API that nobody would think of, a million of them. */

import { join } from "node:path";
import { parseArgs } from "node:util";
import fc from "fast-check";
import { readConfig } from "../../config.ts";
import { type ValidationResult, validateOrder } from "../../consumer/order.ts";
import { createOffsetAt } from "../../consumer/time-zone.ts";
import { start } from "../../index.ts";
import { ENVELOPES } from "../../scripts/envelopes.ts";
import { isDay } from "../../store/periods.ts";
import { MAX_ORDER_CENTS } from "../../store/store.ts";
import { temporaryFolder } from "../support/program.ts";

const anyNumber = fc.oneof(
  fc.double(),
  fc.integer(),
  fc.constantFrom(0.005, 1.005, 1e308, 5e-324, 1e21, 0.1, 19.99, -1),
);
const anything = fc.oneof(fc.jsonValue({ noUnicodeString: false }), anyNumber, fc.string({ unit: "binary" }));
const id = fc.oneof(fc.string({ unit: "binary", maxLength: 140 }), anything);
const item = fc.record({ product_id: id, quantity: anyNumber, price_per_unit: anyNumber }, { requiredKeys: [] });
const stamp = fc.oneof(
  fc.date({ noInvalidDate: true }).map((date) => date.toISOString()),
  fc.stringMatching(/^\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?(Z|z|[+-]\d\d:\d\d)?$/),
  anything,
);

/** Near an order: most fields right, some wrong, some missing, and any others. */
const nearOrder = fc
  .tuple(
    fc.record(
      {
        order_id: id,
        user_id: id,
        order_timestamp: stamp,
        order_value: fc.oneof(anyNumber, anything),
        items: fc.oneof(fc.array(item, { maxLength: 5 }), anything),
        shipping_address: anything,
        payment_method: anything,
      },
      { requiredKeys: [] },
    ),
    fc.dictionary(fc.string(), anything, { maxKeys: 2 }),
  )
  .map(([order, more]) => JSON.stringify({ ...more, ...order }));

const plausible = fc
  .record({
    order_id: fc.string({ minLength: 1, maxLength: 20 }),
    user_id: fc.string({ minLength: 1, maxLength: 20 }),
    order_timestamp: fc.date({ min: new Date("2000-01-01"), max: new Date("2100-01-01"), noInvalidDate: true }),
    order_value: fc.double({ min: 0, max: 1e9, noNaN: true }),
    items: fc.array(
      fc.record({
        product_id: fc.constant("P"),
        quantity: fc.integer({ min: 1, max: 1000 }),
        price_per_unit: fc.integer({ min: 0, max: 1e9 }).map((units) => units / 10_000),
      }),
      { minLength: 1, maxLength: 4 },
    ),
  })
  .map((order) => JSON.stringify(order));

/** Near an envelope: some fields right, some wrong, some missing, around anything. */
const nearEnvelope = fc
  .record(
    {
      order_id: anything,
      Type: fc.oneof(fc.constantFrom("Notification", "SubscriptionConfirmation", "UnsubscribeConfirmation"), anything),
      TopicArn: fc.oneof(fc.constant("arn"), anything),
      Message: fc.oneof(nearOrder, plausible, anything),
      "detail-type": fc.oneof(fc.constant("Order Placed"), anything),
      source: fc.oneof(fc.constant("shop"), anything),
      detail: fc.oneof(
        nearOrder.map((text) => JSON.parse(text)),
        anything,
      ),
    },
    { requiredKeys: ["Message"] },
  )
  .map((fields) => JSON.stringify(fields));

const anyOrder = fc.oneof(nearOrder, plausible);
const wrap = fc.constantFrom(...Object.values(ENVELOPES));
const content = fc.oneof(nearOrder, plausible, nearEnvelope, fc.json(), fc.string({ unit: "binary", maxLength: 300 }));
const wrapped = fc.tuple(content, wrap).map(([body, put]) => put(body, 1, 0));
const wrappedTwice = fc.tuple(wrapped, wrap).map(([body, put]) => put(body, 2, 0));
const anyBody = fc.oneof(content, content, wrapped, wrappedTwice);
const dates = fc.record({
  nowMs: fc.constant(Date.parse("2024-12-13T10:00:00Z")),
  onImplausibleDate: fc.constantFrom("count" as const, "reject" as const),
});

/** What holds for every body: an answer, in time, that the store and the dead-letter queue can take. */
export function checkResult(result: ValidationResult): boolean {
  if (result.outcome === "rejected") {
    const attribute = JSON.stringify(result.errors);
    return (
      result.errors.length > 0 && result.errors.length <= 20 && attribute.length < 8_000 && attribute.isWellFormed()
    );
  }
  const { id, userId, cents, day } = result.order;
  const isId = (text: string) => text.trim() !== "" && text.isWellFormed() && [...text].length <= 128;
  return (
    isId(id) && isId(userId) && isDay(day) && Number.isSafeInteger(cents) && cents >= 0 && cents <= MAX_ORDER_CENTS
  );
}

const OFFSETS = ["UTC", "America/St_Johns", "Pacific/Apia"].map(createOffsetAt);

export function fuzzValidation(cases: number, seed: number) {
  const onMismatch = fc.constantFrom("correct" as const, "reject" as const);
  const options = fc.record({ offsetAt: fc.constantFrom(...OFFSETS), dates: fc.option(dates, { nil: undefined }) });
  const property = fc.property(anyBody, onMismatch, options, (body, onMismatch, options) =>
    checkResult(validateOrder(body, onMismatch, options)),
  );
  fc.assert(property, { numRuns: cases, seed });
  const inEnvelope = fc.property(anyOrder, onMismatch, options, (body, onMismatch, options) => {
    const plain = validateOrder(body, onMismatch, options);
    for (const [envelope, path] of Object.entries(PATHS) as [keyof typeof PATHS, string][]) {
      const result = validateOrder(ENVELOPES[envelope](body, 1, 0), onMismatch, options);
      if (!Bun.deepEquals(result, moved(plain, envelope, path))) return false;
    }
    return true;
  });
  fc.assert(inEnvelope, { numRuns: Math.ceil(cases / 10), seed });
}

const PATHS = { sns: "/Message", eventbridge: "/detail", "sns+eventbridge": "/Message/detail" };

/** What a body in an envelope must result in, by the result without it. */
function moved(plain: ValidationResult, envelope: keyof typeof PATHS, at: string): ValidationResult {
  if (plain.outcome !== "rejected") return { ...plain, envelope };
  const errors = plain.errors.map(({ path, message }) => ({ path: at + path, message }));
  return { ...plain, envelope, errors };
}

const segment = fc.oneof(
  fc.constantFrom(
    "users",
    "stats",
    "top-users",
    "global",
    "daily",
    "docs",
    "json",
    "health",
    "metrics",
    "",
    "..",
    "%2e%2e",
    "%00",
    "%ff",
  ),
  fc.string({ maxLength: 20 }).map((text) => encodeURIComponent(text.toWellFormed())),
  fc.stringMatching(/^[!-~]{0,12}$/).map((text) => text.replaceAll("#", "%23")),
);
const query = fc.oneof(
  fc.record({
    period: fc.string({ maxLength: 3 }),
    date: fc.string({ maxLength: 12 }),
    n: fc.string({ maxLength: 6 }),
  }),
  fc.record({
    period: fc.constantFrom("d", "w", "m", "y"),
    date: fc.stringMatching(/^[-\dW]{0,11}$/),
    n: fc.integer().map(String),
  }),
  fc.record({ from: fc.stringMatching(/^[-\d]{0,11}$/), to: fc.stringMatching(/^[-\d]{0,11}$/) }),
  fc.dictionary(fc.string({ maxLength: 8 }), fc.string({ maxLength: 8 })),
);
const request = fc.record({
  path: fc.oneof(
    fc.constantFrom("top-users", "stats/daily", "stats/global", "users/U1/stats"),
    fc.array(segment, { maxLength: 5 }).map((parts) => parts.join("/")),
  ),
  query,
  method: fc.constantFrom("GET", "GET", "GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS"),
  body: fc.option(fc.string({ maxLength: 50 })),
  type: fc.constantFrom("application/json", "text/plain", "multipart/form-data", "application/x-www-form-urlencoded"),
});

/** An API without consumers on an empty store. */
export async function startApi() {
  const env = { PORT: "0", EMBEDDED_QUEUE_PORT: "0", CONSUMER_WORKERS: "0", LOG_LEVEL: "silent" };
  return await start(readConfig({ ...env, DATA_DIR: join(temporaryFolder(), "data") }));
}

/** What holds for every request: an answer below 500, and problem+json from 400 on. */
export async function fuzzApi(url: string, cases: number, seed: number) {
  const property = fc.asyncProperty(fc.array(request, { minLength: 20, maxLength: 20 }), async (requests) => {
    await Promise.all(requests.map((one) => checkAnswer(url, one)));
  });
  await fc.assert(property, { numRuns: Math.ceil(cases / 20), seed });
}

type Sent = typeof request extends fc.Arbitrary<infer T> ? T : never;

async function checkAnswer(url: string, { path, query, method, body, type }: Sent) {
  const search = new URLSearchParams(
    Object.entries(query).map(([key, value]): [string, string] => [key.toWellFormed(), value.toWellFormed()]),
  );
  const sent =
    method === "GET" || method === "HEAD" || body === null ? {} : { body, headers: { "content-type": type } };
  const response = await fetch(`${url}/${path}?${search}`, { method, ...sent, signal: AbortSignal.timeout(5_000) });
  const text = await response.text();
  if (response.status >= 500) throw new Error(`${response.status}: ${text}`);
  const isProblem = response.headers.get("content-type") === "application/problem+json";
  if (response.status >= 400 && !isProblem)
    throw new Error(`${response.status} ${response.headers.get("content-type")}: ${text}`);
}

async function main() {
  const number = (fallback: number) => ({ type: "string" as const, default: `${fallback}` });
  const options = { cases: number(1_000_000), seed: number(Date.now() % 1_000_000) };
  const { values } = parseArgs({ options });
  const [cases, seed] = [Number(values.cases), Number(values.seed)];
  const api = await startApi();
  const memory = () => {
    Bun.gc(true);
    return `${Math.round(process.memoryUsage.rss() / 1e6)} MB`;
  };
  console.log(`seed ${seed}, ${memory()}`);
  for (let done = 0; done < cases; done += cases / 10) {
    fuzzValidation(Math.ceil(cases / 10), seed + done);
    await fuzzApi(api.url, Math.ceil(cases / 100), seed + done);
    console.log(`${done + cases / 10} bodies, ${Math.ceil((done + cases / 10) / 10)} requests, ${memory()}`);
  }
  await api.stop();
}

if (import.meta.main) await main();
