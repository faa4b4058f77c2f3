import { describe, expect, test } from "bun:test";
import { type DateCheck, type OnValueMismatch, type ValidationResult, validateOrder } from "../consumer/order.ts";
import { MAX_ORDER_CENTS } from "../store/store.ts";

type Fields = Record<string, string | undefined>;

/** The fields of a valid order as JSON text, so that a test controls every digit and every escape. */
const VALID: Fields = {
  order_id: '"ORD1234"',
  user_id: '"U5678"',
  order_timestamp: '"2024-12-13T10:00:00Z"',
  order_value: "40.00",
  items: '[{"product_id":"P001","quantity":2,"price_per_unit":20.00}]',
  shipping_address: '"123 Main St, Springfield"',
  payment_method: '"CreditCard"',
};

/** A valid body with some fields replaced, or left out where undefined. */
function bodyWith(fields: Fields): string {
  const sent = Object.entries({ ...VALID, ...fields }).filter(([, text]) => text !== undefined);
  return `{${sent.map(([name, text]) => `${JSON.stringify(name)}:${text}`).join(",")}}`;
}

/** `"2 x 20.00, 1 x 0.5"` as the JSON text of items. */
function itemsOf(lines: string): string {
  const items = lines.split(", ").map((line) => {
    const [quantity, price] = line.split(" x ");
    return `{"product_id":"P","quantity":${quantity},"price_per_unit":${price}}`;
  });
  return `[${items.join(",")}]`;
}

function judgeWith(fields: Fields, onValueMismatch: OnValueMismatch = "correct"): ValidationResult {
  return validateOrder(bodyWith(fields), onValueMismatch);
}

/** `counted 4000` or `corrected 4000`, in cents, or `rejected <reason>`. */
function verdict(result: ValidationResult): string {
  if (result.outcome === "rejected") return `rejected ${result.reason}`;
  expect(Object.is(result.order.cents, -0)).toBe(false);
  return `${result.outcome} ${result.order.cents}`;
}

function errorsOf(result: ValidationResult) {
  if (result.outcome !== "rejected") throw new Error(`expected a rejection, got ${result.outcome}`);
  expect(result.errors.length).toBeGreaterThan(0);
  expect(result.errors.length).toBeLessThanOrEqual(20);
  for (const { path, message } of result.errors) {
    expect(path).toMatch(/^[a-z0-9_/]{0,60}$/);
    expect(message).toMatch(/^(must |is required$|and at least )[ -~]{0,190}$/);
  }
  return result.errors;
}

function errorPaths(result: ValidationResult): string[] {
  return errorsOf(result).map((error) => error.path);
}

function expectInvalid(fields: Fields, ...paths: string[]): void {
  const result = judgeWith(fields);
  expect(verdict(result)).toBe("rejected invalid_order");
  expect(errorPaths(result)).toEqual(paths);
}

describe("validateOrder() takes an order as it is meant", () => {
  test("counts a valid order", () => {
    expect(judgeWith({})).toEqual({
      outcome: "counted",
      order: { id: "ORD1234", userId: "U5678", cents: 4000, day: "2024-12-13" },
    });
  });

  test("corrects the sample, declared as 99.99 with one item 2 × 20.00, to 40.00", () => {
    expect(judgeWith({ order_value: "99.99" })).toEqual({
      outcome: "corrected",
      order: { id: "ORD1234", userId: "U5678", cents: 4000, day: "2024-12-13" },
      declared: 99.99,
    });
  });

  test("rejects a mismatch, and only a mismatch, when mismatches are to be rejected", () => {
    const result = judgeWith({ order_value: "99.99" }, "reject");
    expect(verdict(result)).toBe("rejected value_mismatch");
    expect(errorPaths(result)).toEqual(["/order_value"]);
    expect(errorsOf(result)[0]?.message).toContain("99.99");
    expect(errorsOf(result)[0]?.message).toContain("40.00");
    expect(verdict(judgeWith({ order_value: "40.01" }, "reject"))).toBe("counted 4001");
    expect(verdict(judgeWith({ order_value: "1e308" }, "reject"))).toBe("rejected value_mismatch");
    expect(verdict(judgeWith({ order_value: "-1" }, "reject"))).toBe("rejected invalid_order");
    errorsOf(judgeWith({ order_value: "1e308" }, "reject"));
  });

  test("counts an order without the optional fields", () => {
    expect(verdict(judgeWith({ shipping_address: undefined, payment_method: undefined }))).toBe("counted 4000");
  });

  test("ignores other fields, whatever their name or value", () => {
    const others = '"coupon":null,"constructor":1,"toString":[],"__proto__":{"order_value":1},"":{},"items ":0';
    const body = bodyWith({}).replace("{", `{${others},`);
    expect(verdict(validateOrder(body, "correct"))).toBe("counted 4000");
  });

  test("counts the last value of a duplicate key", () => {
    const result = validateOrder(bodyWith({}).replace("{", '{"order_id":"first","order_value":7,'), "correct");
    expect(result).toMatchObject({ outcome: "counted", order: { id: "ORD1234", cents: 4000 } });
    expect(validateOrder(bodyWith({}).replace(/}$/, ',"order_id":null}'), "correct").outcome).toBe("rejected");
  });

  test("takes no field from a prototype", () => {
    expect(errorPaths(validateOrder(`{"__proto__":${bodyWith({})}}`, "correct"))).toHaveLength(5);
    const body = bodyWith({ order_id: undefined }).replace("{", '{"__proto__":{"order_id":"ORD1"},');
    expect(errorPaths(validateOrder(body, "correct"))).toEqual(["/order_id"]);
    expect("order_id" in {}).toBe(false);
  });
});

describe("validateOrder() counts order_value itself within one cent of the items, else their total", () => {
  const cases: [items: string, declared: string, expected: string][] = [
    // One cent is the tolerance; anything more is a mismatch.
    ["2 x 20.00", "40", "counted 4000"],
    ["2 x 20.00", "40.01", "counted 4001"],
    ["2 x 20.00", "39.99", "counted 3999"],
    ["2 x 20.00", "40.0101", "corrected 4000"],
    ["2 x 20.00", "39.9899", "corrected 4000"],
    ["2 x 20.00", "40.01000000000001", "corrected 4000"],
    ["2 x 20.00", "39.98999999999999", "corrected 4000"],
    ["2 x 20.00", "40.009999999999", "counted 4001"],
    ["2 x 20.00", "0", "corrected 4000"],
    ["2 x 20.00", "1e308", "corrected 4000"],
    ["2 x 20.00", "5e-324", "corrected 4000"],
    ["1 x 0.29", "0.30", "counted 30"],
    ["1 x 0.29", "0.28", "counted 28"],
    ["1 x 0.57", "0.58", "counted 58"],
    ["1 x 1.14", "1.15", "counted 115"],
    ["1 x 8.20", "8.19", "counted 819"],
    // A declared amount is rounded half up.
    ["2 x 20.00", "40.004", "counted 4000"],
    ["2 x 20.00", "40.005", "counted 4001"],
    ["2 x 20.00", "39.995", "counted 4000"],
    ["2 x 20.00", "39.9949", "counted 3999"],
    ["1 x 1.00", "1.005", "counted 101"],
    ["1 x 1.01", "1.005", "counted 101"],
    ["1 x 1.00", "1.0049", "counted 100"],
    ["1 x 1.01", "1.0049", "counted 100"],
    ["1 x 8.33", "8.325", "counted 833"],
    ["1 x 8.32", "8.325", "counted 833"],
    // The exact sum is rounded half up, once; the declared 99 shows the total.
    ["1 x 1.005", "99", "corrected 101"],
    ["1 x 1.0049", "99", "corrected 100"],
    ["1 x 1.015", "99", "corrected 102"],
    ["3 x 0.3333", "99", "corrected 100"],
    ["1 x 0.0049", "99", "corrected 0"],
    ["1 x 0.005", "99", "corrected 1"],
    ["1 x 0.0025, 1 x 0.0025", "99", "corrected 1"],
    ["49 x 0.0001", "99", "corrected 0"],
    ["50 x 0.0001", "99", "corrected 1"],
    ["1 x 0.0045, 1 x 0.0045, 1 x 0.0045", "99", "corrected 1"],
    // Where binary fractions go wrong.
    ["1 x 0.1, 1 x 0.2", "0.30", "counted 30"],
    ["3 x 0.1", "99", "corrected 30"],
    ["3 x 1.1", "99", "corrected 330"],
    ["100 x 1.15", "99", "corrected 11500"],
    ["100000 x 19.99", "99", "corrected 199900000"],
    ["3 x 33.335", "99", "corrected 10001"],
    ["10000 x 0.0001, 7 x 4.35, 3 x 1.0051", "99", "corrected 3447"],
    // Spellings of numbers.
    ["2.0 x 2e1", "4e1", "counted 4000"],
    ["1 x 1e-4", "0", "counted 0"],
    ["1000000000 x 9.9999", "99", "corrected 999990000000"],
    ["1000000000 x 0.0001", "100000", "counted 10000000"],
    // Nothing is worth nothing, never minus nothing.
    ["1 x 0", "0", "counted 0"],
    ["1 x -0", "-0", "counted 0"],
    ["1 x -0.0", "5", "corrected 0"],
    ["1 x 0", "0.01", "counted 1"],
    ["1 x 0", "0.0049", "counted 0"],
    ["1 x 0.01", "-0", "counted 0"],
    ["1 x 0.01", "0", "counted 0"],
    ["1 x 0.02", "-0", "corrected 2"],
    // Quantities are whole numbers of any size, as long as the total stays in its limit.
    ["1e308 x 0", "0", "counted 0"],
    ["9007199254740993 x 0", "0", "counted 0"],
    // The limit of one order.
    ["1 x 9999999999.99", "9999999999.99", "counted 999999999999"],
    ["1 x 9999999999.99", "1", "corrected 999999999999"],
    ["1 x 9999999999.99, 1 x 0.0049", "1", "corrected 999999999999"],
    ["1 x 9999999999.99", "9999999999.985", "counted 999999999999"],
    ["1 x 9999999999.99", "9999999999.98", "counted 999999999998"],
    ["1 x 9999999999.99", "10000000000", "counted 999999999999"],
    ["1 x 9999999999.99", "9999999999.995", "counted 999999999999"],
    ["1 x 9999999999.98", "9999999999.99", "counted 999999999999"],
    ["1 x 9999999999.99, 1 x 0.005", "1", "rejected invalid_order"],
    ["1 x 9999999999.99, 1 x 0.01", "10000000000.00", "rejected invalid_order"],
    ["99999999999999 x 0.0001", "1", "rejected invalid_order"],
    ["99999999999949 x 0.0001", "1", "corrected 999999999999"],
    ["9007199254740993 x 0.0001", "1", "rejected invalid_order"],
  ];
  for (const [lines, declared, expected] of cases) {
    test(`${lines}, declared ${declared}: ${expected}`, () => {
      expect(verdict(judgeWith({ items: itemsOf(lines), order_value: declared }))).toBe(expected);
    });
  }

  test("names the limit when the items total more", () => {
    for (const lines of ["1 x 10000000000", "1 x 1e308", "1 x 1e300, 1 x 1e308", "1e308 x 1e308", "1e308 x 0.01"]) {
      const result = judgeWith({ items: itemsOf(lines) });
      expect(errorPaths(result)).toEqual(["/items"]);
      expect(errorsOf(result)[0]?.message).toContain("at most 9999999999.99");
    }
    expect(MAX_ORDER_CENTS).toBe(999_999_999_999);
  });
});

describe("validateOrder() keeps money exact: random orders against BigInt arithmetic on their decimal text", () => {
  /** mulberry32, seeded: a failure comes back on the next run. */
  function createRandom(seed: number): (below: number) => number {
    let state = seed;
    return (below) => {
      state = (state + 0x6d2b79f5) | 0;
      let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
      mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
      return Math.floor((((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32) * below);
    };
  }

  function asDecimal(units: bigint, decimals: number): string {
    const digits = units.toString().padStart(decimals + 1, "0");
    return decimals === 0 ? digits : `${digits.slice(0, -decimals)}.${digits.slice(-decimals)}`;
  }

  const random = createRandom(20241213);

  function randomItem(): { quantity: bigint; tenThousandths: bigint; text: string } {
    const quantity = BigInt(1 + random([3, 20, 1000, 1_000_000][random(4)] ?? 1));
    const decimals = random(5);
    const scaled = BigInt(random([10, 10_000, 1_000_000, 2_000_000_000][random(4)] ?? 1));
    const text = `${quantity} x ${asDecimal(scaled, decimals)}`;
    return { quantity, tenThousandths: scaled * 10n ** BigInt(4 - decimals), text };
  }

  /** Micros near an edge of the rule. Doubles tell decimals of up to 15 digits apart, which bounds the step. */
  function randomDeclared(totalCents: bigint): bigint {
    const step = totalCents < 10_000_000_000n ? 1n : 100n;
    const edge = [-10_000n, -5_000n, 0n, 5_000n, 10_000n][random(5)] ?? 0n;
    const near = totalCents * 10_000n + edge + step * BigInt(random(5) - 2);
    const declared = random(10) === 0 ? BigInt(random(2 ** 31)) * 100n : near;
    return declared < 0n ? 0n : declared;
  }

  function expectedVerdict(totalCents: bigint, declaredMicros: bigint): string {
    if (totalCents > BigInt(MAX_ORDER_CENTS)) return "rejected invalid_order";
    const difference = declaredMicros - totalCents * 10_000n;
    if (difference > 10_000n || difference < -10_000n) return `corrected ${totalCents}`;
    return `counted ${(declaredMicros + 5_000n) / 10_000n}`;
  }

  test("40,000 orders, declared around one cent and half a cent away", () => {
    const seen = { counted: 0, corrected: 0, rejected: 0 };
    for (let round = 0; round < 40_000; round++) {
      const items = Array.from({ length: 1 + random(5) }, randomItem);
      const sum = items.reduce((units, item) => units + item.quantity * item.tenThousandths, 0n);
      const totalCents = (sum + 50n) / 100n;
      const declared = randomDeclared(totalCents);
      const fields = {
        items: itemsOf(items.map((item) => item.text).join(", ")),
        order_value: asDecimal(declared, 6),
      };
      const result = judgeWith(fields);
      seen[result.outcome]++;
      const expected = expectedVerdict(totalCents, declared);
      expect({ fields, verdict: verdict(result) }).toEqual({ fields, verdict: expected });
    }
    for (const orders of Object.values(seen)) expect(orders).toBeGreaterThan(100);
  });
});

describe("validateOrder() rejects an order with a wrong field, and points at it", () => {
  for (const field of ["order_id", "user_id", "order_timestamp", "order_value", "items"]) {
    test(`without ${field}`, () => {
      expectInvalid({ [field]: undefined }, `/${field}`);
      expect(errorsOf(judgeWith({ [field]: undefined }))).toEqual([{ path: `/${field}`, message: "is required" }]);
    });
  }
  for (const field of Object.keys(VALID)) {
    for (const text of ["null", "true", "{}", '{"length":1}']) {
      test(`with ${field} ${text}`, () => expectInvalid({ [field]: text }, `/${field}`));
    }
  }
  for (const field of ["product_id", "quantity", "price_per_unit"]) {
    test(`with an item without ${field}, or with it null`, () => {
      const item = { product_id: "P", quantity: 1, price_per_unit: 1 };
      expectInvalid({ items: JSON.stringify([item, { ...item, [field]: undefined }]) }, `/items/1/${field}`);
      expectInvalid({ items: JSON.stringify([item, item, { ...item, [field]: null }]) }, `/items/2/${field}`);
    });
  }

  const wrong: [field: string, texts: string[]][] = [
    ["order_id", ["1", "[]", '["ORD1"]', '""']],
    ["user_id", ["5678", "[]", '""']],
    ["order_value", ['"40.00"', '"NaN"', "-0.01", "-1e-300", "1e999", "-1e999", "[]", "[40]"]],
    ["items", ["[]", '"[]"', "1"]],
    ["shipping_address", ["1", "[]"]],
    ["payment_method", ["1", "[]"]],
  ];
  for (const [field, texts] of wrong) {
    for (const text of texts) test(`with ${field} ${text}`, () => expectInvalid({ [field]: text }, `/${field}`));
  }

  const product = (text: string) => `[{"product_id":${text},"quantity":1,"price_per_unit":1}]`;
  for (const text of ["1", '""', '" "', '"\\u00a0"', "[]", "{}"]) {
    test(`with product_id ${text}`, () => expectInvalid({ items: product(text) }, "/items/0/product_id"));
  }
  for (const quantity of ["0", "-0", "-1", "1.5", "0.9999", '"1"', "1e999", "-1e308", "true", "[1]", "1e-5"]) {
    test(`with quantity ${quantity}`, () => expectInvalid({ items: itemsOf(`${quantity} x 1`) }, "/items/0/quantity"));
  }
  const prices = [
    "-0.01",
    "-1",
    "0.00001",
    "1e-5",
    "1.00005",
    "20.12345",
    "9999999999.99001",
    "5e-324",
    "0.30000000000000004",
  ];
  for (const price of [...prices, '"20.00"', '"NaN"', "1e999", "-1e999", "-1e308", "true", "[1]"]) {
    test(`with price_per_unit ${price}`, () => {
      expectInvalid({ items: itemsOf(`1 x 1, 2 x ${price}`) }, "/items/1/price_per_unit");
    });
  }
  for (const item of ["null", "1", '"P"', "true", "[]", "[1,2,3]"]) {
    test(`with the item ${item}`, () => expectInvalid({ items: `[${item}]` }, "/items/0"));
  }

  test("names every error of the order and of all items at once", () => {
    const items = '[{"quantity":0,"price_per_unit":"1"},{"product_id":" ","quantity":1,"price_per_unit":1.00001},7]';
    expect(errorsOf(judgeWith({ order_id: undefined, user_id: '" "', order_value: '"40"', items }))).toEqual([
      { path: "/order_id", message: "is required" },
      {
        path: "/user_id",
        message: 'must be a non-blank, well-formed string of at most 128 characters, is " "',
      },
      { path: "/order_value", message: 'must be a finite number of at least 0, is "40"' },
      { path: "/items/0/product_id", message: "is required" },
      { path: "/items/0/quantity", message: "must be an integer of at least 1, is 0" },
      {
        path: "/items/0/price_per_unit",
        message: 'must be a finite number of at least 0 with at most 4 decimals, is "1"',
      },
      { path: "/items/1/product_id", message: 'must be a non-blank string, is " "' },
      {
        path: "/items/1/price_per_unit",
        message: "must be a finite number of at least 0 with at most 4 decimals, is 1.00001",
      },
      { path: "/items/2", message: "must be an object, is 7" },
    ]);
  });

  test("names every field of an order with nothing right", () => {
    const nulls = Object.fromEntries(Object.keys(VALID).map((field) => [field, "null"]));
    expect(errorPaths(judgeWith(nulls)).sort()).toEqual(
      Object.keys(VALID)
        .map((field) => `/${field}`)
        .sort(),
    );
    const missing = errorPaths(validateOrder("{}", "correct"));
    expect(missing.sort()).toEqual(["/items", "/order_id", "/order_timestamp", "/order_value", "/user_id"]);
  });

  test("keeps 20 errors as they are, and of more the first 19 and a count", () => {
    const twenty = errorsOf(judgeWith({ items: JSON.stringify(Array(20).fill(0)) }));
    expect(twenty.at(-1)).toEqual({ path: "/items/19", message: "must be an object, is 0" });
    const more = errorsOf(judgeWith({ items: JSON.stringify(Array(21).fill(0)) }));
    expect(more.at(-2)?.path).toBe("/items/18");
    expect(more.at(-1)).toEqual({ path: "", message: "and at least 2 more errors" });
    const many = errorsOf(judgeWith({ items: JSON.stringify([...Array(1000).fill({}), 1]) }));
    expect(many.at(-1)?.message).toMatch(/^and at least (99\d|1\d\d\d) more errors$/);
  });

  test("keeps errors short and in printable ASCII, whatever was sent", () => {
    const strings = [
      "x".repeat(1_000_000),
      "\u0000".repeat(200),
      "\ufffe\uffff",
      "\ud800",
      "é😀".repeat(100),
      "\n\u007f\u0085",
    ];
    for (const text of strings.map((value) => JSON.stringify(value))) {
      errorsOf(judgeWith({ order_timestamp: text, order_value: text, items: itemsOf(`${text} x ${text}`) }));
    }
  });
});

describe("validateOrder() names the ids of a rejected order", () => {
  const both = { orderId: "o", userId: "u" };

  test.each<[string, Fields, object]>([
    ["whose items are wrong", { items: "[]" }, both],
    ["whose value is not that of its items", { order_value: "9999" }, both],
    ["that passes the limit", { items: itemsOf("1 x 1e12") }, both],
    ["with one valid id", { order_id: '" "' }, { userId: "u" }],
    ["with none", { order_id: "7", user_id: "null" }, {}],
  ])("%s", (_, fields, ids) => {
    const { outcome, reason, errors, ...named } = judgeWith(
      { order_id: '"o"', user_id: '"u"', ...fields },
      "reject",
    ) as Extract<ValidationResult, { outcome: "rejected" }>;
    expect({ outcome, named }).toEqual({ outcome: "rejected", named: ids });
  });

  test.each(["{", "null", '"text"', "[]", '{"__proto__":{"order_id":"o"}}'])("none in %s", (body) => {
    expect(validateOrder(body, "correct")).not.toHaveProperty("orderId");
  });
});

describe("validateOrder() takes ids as they are", () => {
  const ids = [
    ..."U5678| U1 |a:b|{U1}|{}|a b|a\nb|\u0000|a\u0000b|😀|é|e\u0301|👨‍👩‍👧|\ufffd|\ufffe|\u200b".split("|"),
    ..."__proto__|constructor|toString|null|0|user:U1|'; DROP TABLE orders; --".split("|"),
    ...["x".repeat(128), "😀".repeat(128), `${"x".repeat(127)}😀`],
  ];
  for (const id of ids) {
    test(`counts ${JSON.stringify(id).slice(0, 40)} of ${[...id].length}, unchanged`, () => {
      const result = judgeWith({ order_id: JSON.stringify(id), user_id: JSON.stringify(id) });
      expect(result).toMatchObject({ outcome: "counted", order: { id, userId: id } });
    });
  }

  const spaces = " \t\n\v\f\r\u00a0\u1680\u2000\u2003\u200a\u2028\u2029\u202f\u205f\u3000\ufeff";
  const blanks = [...spaces, "", spaces];
  const surrogates = ["\ud800", "\udfff", "U\ud83d", "\ude00\ud83d", "😀\udc00"];
  const tooLong = [..."x😀"].map((character) => character.repeat(129));
  tooLong.push(`${"x".repeat(128)}😀`, "x".repeat(257), "x".repeat(1_000_000));
  for (const id of [...blanks, ...surrogates, ...tooLong]) {
    test(`rejects ${JSON.stringify(id).slice(0, 40)} of ${[...id].length}`, () => {
      const text = JSON.stringify(id);
      expectInvalid({ order_id: text }, "/order_id");
      expectInvalid({ user_id: text }, "/user_id");
    });
  }

  test("rejects a lone surrogate written as an escape, and takes an escaped pair", () => {
    expectInvalid({ user_id: '"U\\ud83d"' }, "/user_id");
    expect(judgeWith({ user_id: '"U\\ud83d\\ude00"' })).toMatchObject({ order: { userId: "U😀" } });
  });
});

describe("validateOrder() takes the UTC date of an RFC 3339 date-time for the day", () => {
  const good: [timestamp: string, day: string][] = [
    ["2024-12-13T10:00:00Z", "2024-12-13"],
    ["2024-12-13t10:00:00z", "2024-12-13"],
    ["2024-12-13T10:00:00+00:00", "2024-12-13"],
    ["2024-12-13T10:00:00-00:00", "2024-12-13"],
    ["2024-12-13T23:59:59.999999999999999999Z", "2024-12-13"],
    ["2024-12-13T10:00:00.0+05:30", "2024-12-13"],
    [`2024-12-13T10:00:00.${"9".repeat(10_000)}Z`, "2024-12-13"],
    ["2024-12-13T00:00:00Z", "2024-12-13"],
    ["2024-12-13T00:00:00+00:01", "2024-12-12"],
    ["2024-12-13T00:59:59.9+01:00", "2024-12-12"],
    ["2024-12-13T01:00:00+01:00", "2024-12-13"],
    ["2024-12-13T23:59:59-00:01", "2024-12-14"],
    ["2024-12-13T22:59:59-01:00", "2024-12-13"],
    ["2024-12-13T23:00:00-01:00", "2024-12-14"],
    ["2024-12-13T00:00:00+23:59", "2024-12-12"],
    ["2024-12-13T23:59:59-23:59", "2024-12-14"],
    ["2024-12-31T23:30:00-05:00", "2025-01-01"],
    ["2025-01-01T04:30:00+05:00", "2024-12-31"],
    ["2024-03-01T00:30:00+01:00", "2024-02-29"],
    ["2023-03-01T00:30:00+01:00", "2023-02-28"],
    ["2024-02-28T23:30:00-01:00", "2024-02-29"],
    ["2024-02-29T12:00:00Z", "2024-02-29"],
    ["2000-02-29T12:00:00Z", "2000-02-29"],
    ["0004-02-29T12:00:00Z", "0004-02-29"],
    ["2024-04-30T12:00:00Z", "2024-04-30"],
    ["2024-01-31T12:00:00Z", "2024-01-31"],
    ["1969-12-31T23:59:59Z", "1969-12-31"],
    ["1970-01-01T00:00:00+00:30", "1969-12-31"],
    ["0001-01-01T00:00:00Z", "0001-01-01"],
    ["0000-12-31T23:30:00-01:00", "0001-01-01"],
    ["0050-01-01T00:30:00+01:00", "0049-12-31"],
    ["0099-12-31T23:30:00-01:00", "0100-01-01"],
    ["9999-12-31T23:59:59Z", "9999-12-31"],
    ["9999-12-31T23:59:60Z", "9999-12-31"],
    ["2016-12-31T23:59:60Z", "2016-12-31"],
    ["2016-12-31T23:59:60.5Z", "2016-12-31"],
    ["2015-06-30T23:59:60z", "2015-06-30"],
    ["1990-12-31T15:59:60-08:00", "1990-12-31"],
    ["2017-01-01T00:59:60+01:00", "2016-12-31"],
    ["2017-01-01T05:29:60+05:30", "2016-12-31"],
  ];
  for (const [timestamp, day] of good) {
    test(`${timestamp.slice(0, 50)} is ${day}`, () => {
      expect(judgeWith({ order_timestamp: JSON.stringify(timestamp) })).toMatchObject({ order: { day } });
    });
  }

  const bad: [why: string, timestamps: string][] = [
    ["not a date-time", "|now|2024-12-13|10:00:00Z|1734084000|1734084000000|Fri, 13 Dec 2024 10:00:00 GMT"],
    ["no seconds", "2024-12-13T10:00Z|2024-12-13T10Z"],
    ["no offset", "2024-12-13T10:00:00|2024-12-13T10:00:00.5|2024-12-13T10:00:00UTC"],
    ["no T", "2024-12-13 10:00:00Z|2024-12-13_10:00:00Z|2024-12-1310:00:00Z"],
    [
      "more than a date-time",
      " 2024-12-13T10:00:00Z|2024-12-13T10:00:00 Z|2024-12-13T10:00:00Z\n|2024-12-13T10:00:00Zx",
    ],
    ["a time zone", "2024-12-13T10:00:00Z[UTC]|2024-12-13T10:00:00+01:00[Europe/Paris]"],
    ["a number too short", "2024-1-1T10:00:00Z|2024-01-1T10:00:00Z|24-12-13T10:00:00Z|2024-12-13T1:00:00Z"],
    ["a year too long", "12024-12-13T10:00:00Z|+002024-12-13T10:00:00Z|-2024-12-13T10:00:00Z"],
    ["other ISO 8601", "20241213T100000Z|2024-W50-5T10:00:00Z|2024-348T10:00:00Z|2024-12-13T10:00:00,5Z"],
    ["other signs", "2024/12/13T10:00:00Z|२०२४-12-13T10:00:00Z|2024-12-13T10:00:00\u221205:00"],
    ["no leap year", "2023-02-29T10:00:00Z|1900-02-29T10:00:00Z|2100-02-29T10:00:00Z"],
    ["no such day", "2024-02-30T10:00:00Z|2024-04-31T10:00:00Z|2024-11-31T00:30:00+01:00|2024-12-32T10:00:00Z"],
    ["no such day", "2024-12-00T10:00:00Z|2024-00-10T10:00:00Z|2024-13-10T10:00:00Z"],
    ["no such time", "2024-12-13T24:00:00Z|2024-12-13T25:00:00Z|2024-12-13T10:60:00Z|2024-12-13T10:00:61Z"],
    ["half a fraction", "2024-12-13T10:00:00.Z|2024-12-13T10:00:00.5.5Z"],
    ["no such offset", "2024-12-13T10:00:00+24:00|2024-12-13T10:00:00+05:60|2024-12-13T10:00:00+05:30Z"],
    ["half an offset", "2024-12-13T10:00:00+05|2024-12-13T10:00:00+0530|2024-12-13T10:00:00+5:30"],
    ["a leap second within a day", "2024-12-31T10:00:60Z|2016-12-31T22:59:60Z|2016-12-31T23:58:60Z"],
    ["a leap second within a UTC day", "2016-12-31T23:59:60+01:00|2016-12-31T23:59:60-00:01|2017-01-01T00:00:60Z"],
    ["a leap second within a month", "2024-12-13T23:59:60Z|2024-02-28T23:59:60Z|2016-12-31T00:59:60+01:00"],
    ["before year 1", "0000-01-01T00:00:00Z|0000-12-31T23:59:59Z|0000-12-31T23:59:60Z|0001-01-01T00:30:00+01:00"],
    ["far before year 1", "0000-01-01T00:00:00+01:00"],
    ["after year 9999", "9999-12-31T23:30:00-01:00|9999-12-31T00:01:00-23:59"],
  ];
  for (const [why, timestamps] of bad) {
    for (const timestamp of timestamps.split("|")) {
      test(`rejects ${JSON.stringify(timestamp)}: ${why}`, () => {
        expectInvalid({ order_timestamp: JSON.stringify(timestamp) }, "/order_timestamp");
      });
    }
  }
  const messages: [timestamp: string, message: string][] = [
    ["2026-02-30T10:00:00Z", "must be on an existing date: there is no 2026-02-30"],
    ["2023-02-29T10:00:00+01:00", "must be on an existing date: there is no 2023-02-29"],
    ["2024-13-10T10:00:00Z", "must be on an existing date: there is no 2024-13-10"],
    ["2024-12-13T10:00:00", "must end with Z or an offset such as +01:00"],
    ["2024-12-13T10:00:00.123456", "must end with Z or an offset such as +01:00"],
    ["2024-12-13T10:00:60Z", "must be an existing time, in UTC in the years 0001 to 9999"],
    ["0000-01-01T00:00:00Z", "must be on an existing date: there is no 0000-01-01"],
    ["9999-12-31T23:30:00-01:00", "must be an existing time, in UTC in the years 0001 to 9999"],
    ["2026-02-30T10:00:00", "must be an RFC 3339 date-time such as 2024-12-13T10:00:00Z"],
    ["2024-12-13", "must be an RFC 3339 date-time such as 2024-12-13T10:00:00Z"],
  ];
  test.each(messages)("says of %s what is wrong: %s", (timestamp, message) => {
    const [error] = errorsOf(judgeWith({ order_timestamp: JSON.stringify(timestamp) }));
    expect(error?.message).toBe(`${message}, is "${timestamp}"`);
  });

  for (const text of ["1734084000", "1734084000000", "[]", '["2024-12-13T10:00:00Z"]', "true"]) {
    test(`rejects ${text}`, () => expectInvalid({ order_timestamp: text }, "/order_timestamp"));
  }

  test("agrees with Date on every day of leap and other years, an hour before and after midnight", () => {
    const dayOf = (ms: number) => new Date(ms).toISOString().slice(0, 10);
    for (const year of [1896, 1900, 1970, 2000, 2023, 2024, 2100]) {
      for (let ms = Date.UTC(year, 0, 1); ms < Date.UTC(year + 1, 0, 1); ms += 86_400_000) {
        const times = ["T00:00:00+01:00", "T12:00:00Z", "T23:00:00-01:00"];
        const result = times.map((time) => judgeWith({ order_timestamp: `"${dayOf(ms)}${time}"` }));
        const days = [ms - 86_400_000, ms, ms + 86_400_000].map((at) => ({ order: { day: dayOf(at) } }));
        expect(result).toMatchObject(days);
      }
    }
  });
});

describe("validateOrder() notes a date that is implausible by the clock", () => {
  const NOW = "2024-12-13T10:00:00Z";
  function checkDate(timestamp: string, onImplausibleDate: DateCheck["onImplausibleDate"] = "count", at = NOW) {
    const body = bodyWith({ order_timestamp: JSON.stringify(timestamp) });
    const dates = { nowMs: Date.parse(at), onImplausibleDate };
    return validateOrder(body, "correct", { dates });
  }

  test.each([
    ["2024-12-14T10:00:01Z", "future", "2024-12-14", NOW],
    ["2024-12-14t10:00:01.5z", "future", "2024-12-14", NOW],
    ["2024-12-14T22:00:01+12:00", "future", "2024-12-14", NOW],
    ["2024-12-15T00:30:00+14:30", "plausible", "", NOW],
    ["2016-12-31T23:59:60Z", "future", "2016-12-31", "2016-12-01T00:00:00Z"],
    ["9999-12-31T23:59:59Z", "future", "9999-12-31", NOW],
    ["2024-12-14T10:00:00Z", "plausible", "", NOW],
    ["2024-12-13T10:00:00Z", "plausible", "", NOW],
    ["2000-01-01T00:00:00Z", "plausible", "", NOW],
    ["1999-12-31T23:59:59Z", "past", "1999-12-31", NOW],
    ["2000-01-01T00:30:00+01:00", "past", "1999-12-31", NOW],
    ["0001-01-01T00:00:00Z", "past", "0001-01-01", NOW],
    ["2000-01-02T00:00:01Z", "future", "2000-01-02", "2000-01-01T00:00:00Z"],
  ])("%s: %s (%s, at %s)", (timestamp, direction, day, at) => {
    const result = checkDate(timestamp, "count", at);
    expect(result.outcome === "counted" && result.notes?.implausibleDate).toEqual(
      day === "" ? undefined : { direction: direction as "past", day },
    );
    expect(verdict(result)).toBe("counted 4000");
    const rejected = checkDate(timestamp, "reject", at);
    expect(verdict(rejected)).toBe(day ? "rejected invalid_order" : "counted 4000");
    if (day) expect(errorPaths(rejected)).toEqual(["/order_timestamp"]);
  });

  test("says what is accepted, and names the ids", () => {
    const result = checkDate("2034-12-13T10:00:00Z", "reject");
    const message = "must not be before 2000-01-01 or more than a day ahead: is on 2034-12-13";
    expect(errorsOf(result)).toEqual([{ path: "/order_timestamp", message }]);
    expect(result).toMatchObject({ orderId: "ORD1234", userId: "U5678" });
  });
});

test("validateOrder() notes a currency that is text, and ignores any other", () => {
  const notes = (currency: string) => validateOrder(bodyWith({ currency }), "correct");
  expect(notes('"EUR"')).toMatchObject({ outcome: "counted", notes: { currency: "EUR" } });
  for (const other of ["1", "null", "{}", '["EUR"]']) {
    expect(verdict(notes(other))).toBe("counted 4000");
    expect(notes(other)).toHaveProperty("notes", undefined);
  }
});

describe("validateOrder() rejects a body that is not a JSON object", () => {
  const numbers = "NaN|Infinity|-Infinity|+1|.5|1.|01|0x10|1_000|1e|'1'|40,00".split("|");
  const ids = ['"a\nb"', '"\\x41"', '"\\usecret"', '"\\u12"', "'U1'", '"secret"secret', "secret", '"\u0000"'];
  const notJson = [
    ..."| |{|}|order|undefined|NaN|{order_id:1}|{'order_id':1}|[1,]|// {}|\u0000|\ud800|\ufeff{}".split("|"),
    ...[`\ufeff${bodyWith({})}`, `${bodyWith({})}x`, `${bodyWith({})}${bodyWith({})}`, bodyWith({}).slice(0, -1)],
    ...numbers.map((text) => bodyWith({ order_value: text })),
    ...ids.map((text) => bodyWith({ user_id: text })),
    ...["[", '{"a":', "secret", '"secret'].map((text) => text.repeat(100_000)),
  ];
  for (const body of notJson) {
    test(`${JSON.stringify(body).slice(0, 50)} … ${JSON.stringify(body.slice(-12))} is not JSON`, () => {
      const result = validateOrder(body, "correct");
      expect(verdict(result)).toBe("rejected invalid_json");
      expect(errorPaths(result)).toEqual([""]);
      expect(errorsOf(result)[0]?.message).toMatch(/^must be JSON: ["A-Z]/);
      expect(errorsOf(result)[0]?.message).not.toContain("secret");
    });
  }
  test.each([
    ["{'order_id': 'O1'}", "Single quotes (') are not allowed in JSON, at character 2"],
    ['{"order_id":"O1","coupon":None}', "Unexpected identifier, at character 27"],
    ['{"order_value":NaN}', "Unexpected identifier, at character 16"],
    ['{"gift":  True}', "Unexpected identifier, at character 11"],
    ['{"order_value":01}', "Expected '}', at character 16"],
    ['{"order_value":.5}', "Unexpected token, at character 16"],
    ['{"user_id":"a\\x41"}', "Invalid escape character, at character 12"],
    ['{"user_id":"\\u12"}', '"..." is not a valid unicode escape, at character 12'],
    ['{"user_id":"U1', "Unterminated string, at character 12"],
    ["order_id=O1&user_id=U1", "Unexpected identifier, at character 1"],
    ["\ufeff{}", "Unrecognized token, at character 1"],
    ['{"order_id":"O1",}', "Property name must be a string literal"],
    ['{"order_id":"O1"', "Expected '}'"],
  ])("says where %p is not", (body, reason) => {
    expect(errorsOf(validateOrder(body, "correct"))).toEqual([{ path: "", message: `must be JSON: ${reason}` }]);
  });

  for (const body of ["[]", `[${bodyWith({})}]`, '"{}"', '""', "0", "1.5", "1e999", "null", "true", "false", " [] "]) {
    test(`${body.slice(0, 30)} is no order`, () => {
      const result = validateOrder(body, "correct");
      expect(verdict(result)).toBe("rejected invalid_order");
      expect(errorPaths(result)).toEqual([""]);
      expect(errorsOf(result)[0]?.message).toStartWith("must be an object, is ");
    });
  }
  test("white space around an order is fine", () => {
    expect(verdict(validateOrder(` \r\n\t${bodyWith({})}\n`, "correct"))).toBe("counted 4000");
  });
});

describe("validateOrder() stands bodies of a megabyte", () => {
  /** Generous against a busy machine: these take a tenth of it. */
  const LIMIT_MS = 1000;

  function judgeInTime(body: string): ValidationResult {
    const startMs = performance.now();
    const result = validateOrder(body, "correct");
    expect(performance.now() - startMs).toBeLessThan(LIMIT_MS);
    return result;
  }

  test("counts one of valid items", () => {
    const item = '{"product_id":"P","quantity":3,"price_per_unit":0.3333}';
    const items = `[${Array(18_000).fill(item).join()}]`;
    expect(verdict(judgeInTime(bodyWith({ items, order_value: "17998.20" })))).toBe("counted 1799820");
  });

  for (const item of ["0", "{}", "[]", '{"product_id":"","quantity":0.5,"price_per_unit":"1"}', '{"a":1}']) {
    test(`rejects one of items ${item} with a bounded list of errors`, () => {
      const count = Math.floor(1_000_000 / (item.length + 1));
      const result = judgeInTime(bodyWith({ items: `[${Array(count).fill(item).join()}]` }));
      expect(verdict(result)).toBe("rejected invalid_order");
      expect(JSON.stringify(errorsOf(result)).length).toBeLessThan(8_000);
      expect(errorsOf(result)).toHaveLength(20);
    });
  }

  test("points at a wrong item after thousands of valid ones", () => {
    const items = `[${Array(18_000).fill('{"product_id":"P","quantity":1,"price_per_unit":1}').join()},{}]`;
    const result = judgeInTime(bodyWith({ items }));
    expect(errorPaths(result)).toEqual(["product_id", "quantity", "price_per_unit"].map((f) => `/items/18000/${f}`));
  });

  test("rejects one that is not JSON", () => {
    for (const body of ['"a', '"\\n', '"\\n"', "[", " ", "1"].map((text) => text.repeat(300_000)))
      expect(verdict(judgeInTime(`${body}!`))).toBe("rejected invalid_json");
    expect(verdict(judgeInTime(`"${"\\n".repeat(500_000)}`))).toBe("rejected invalid_json");
  });

  test("rejects a batch of ten texts without an end in the same time", () => {
    const startMs = performance.now();
    for (let message = 0; message < 10; message++) validateOrder(`"${"a".repeat(1_000_000)}`, "correct");
    expect(performance.now() - startMs).toBeLessThan(LIMIT_MS);
  });

  const arrays = "[".repeat(500_000) + "]".repeat(500_000);
  const objects = `${'{"a":'.repeat(170_000)}1${"}".repeat(170_000)}`;
  for (const [name, bomb] of Object.entries({ arrays, objects })) {
    test(`survives half a million nested ${name}, anywhere`, () => {
      expect(verdict(judgeInTime(bodyWith({ other: bomb })))).toBe("counted 4000");
      expect(verdict(judgeInTime(bomb))).toBe("rejected invalid_order");
      for (const field of Object.keys(VALID)) errorsOf(judgeInTime(bodyWith({ [field]: bomb })));
      errorsOf(judgeInTime(bodyWith({ items: itemsOf(`${bomb} x ${bomb}`) })));
      expect(verdict(judgeInTime(bodyWith({ items: itemsOf("2 x 20").replace("}", `,"other":${bomb}}`) })))).toBe(
        "counted 4000",
      );
    });
  }
});

test.each([
  ["an unterminated text", `{"order_id":"${"x".repeat(1024 * 1024)}`],
  ["text of two units a character", `{"order_id":"${"😀".repeat(500_000)}",}`],
  ["escapes", `{"order_id":"${'\\"'.repeat(500_000)}",}`],
])("a body of 1 MiB that is not JSON is rejected within a tenth of a second: %s", (_, body) => {
  const before = performance.now();
  expect(validateOrder(body, "correct")).toMatchObject({ reason: "invalid_json" });
  // 3 to 10 ms on a quiet machine; matching all of it took a second.
  expect(performance.now() - before).toBeLessThan(100);
});
