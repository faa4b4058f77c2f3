import { describe, expect, test } from "bun:test";
import { traceOf } from "../queue/trace-context.ts";

const ID = "0af7651916cd43dd8448eb211c80319c";
const SPAN = "b7ad6b7169203331";
const ROOT = "Root=1-5759e988-bd862e3fe1be46a994272793";
const PARENT = "Parent=53995c3f42cd8ad8";

const withAttribute = (StringValue: string, traceHeader?: string) =>
  traceOf({ attributes: { traceparent: { DataType: "String", StringValue } }, traceHeader, body: "" });
const withHeader = (traceHeader: string) => traceOf({ attributes: {}, traceHeader, body: "" });

describe("traceOf() reads the attribute traceparent", () => {
  test.each([
    ["sampled", `00-${ID}-${SPAN}-01`, true],
    ["not sampled", `00-${ID}-${SPAN}-00`, false],
    ["with flags of a later level", `00-${ID}-${SPAN}-03`, true],
    ["of a later version", `cc-${ID}-${SPAN}-01`, true],
    ["of a later version with more to say", `01-${ID}-${SPAN}-00-what-comes-next`, false],
  ])("%s", (_, value, sampled) => {
    expect(withAttribute(value)).toEqual({ traceId: ID, spanId: SPAN, sampled });
  });

  test.each([
    ["version ff", `ff-${ID}-${SPAN}-01`],
    ["version 00 with more to say", `00-${ID}-${SPAN}-01-more`],
    ["version 00 with a dash at its end", `00-${ID}-${SPAN}-01-`],
    ["a later version that goes on without a dash", `01-${ID}-${SPAN}-01x`],
    ["a trace of zeros", `00-${"0".repeat(32)}-${SPAN}-01`],
    ["a span of zeros", `00-${ID}-${"0".repeat(16)}-01`],
    ["upper case", `00-${ID.toUpperCase()}-${SPAN}-01`],
    ["a trace too short", `00-${ID.slice(1)}-${SPAN}-01`],
    ["no flags", `00-${ID}-${SPAN}`],
    ["a line before it", `\n00-${ID}-${SPAN}-01`],
    ["nothing", ""],
  ])("but not with %s", (_, value) => {
    expect(withAttribute(value)).toBeUndefined();
  });
});

describe("traceOf() reads SQS's AWSTraceHeader", () => {
  const trace = { traceId: "5759e988bd862e3fe1be46a994272793", spanId: "53995c3f42cd8ad8" };

  test.each([
    ["sampled", `${ROOT};${PARENT};Sampled=1`, true],
    ["not sampled", `${ROOT};${PARENT};Sampled=0`, false],
    ["undecided", `${ROOT};${PARENT}`, false],
    ["in another order, spaced, with what others add", `Self=1-1-2; Sampled=1; ${PARENT}; Lineage=a:0 ;${ROOT}`, true],
  ])("%s", (_, header, sampled) => {
    expect(withHeader(header)).toEqual({ ...trace, sampled });
  });

  test.each([
    ["a root alone", `${ROOT};Sampled=1`],
    ["a parent alone", PARENT],
    ["another version", `${ROOT.replace("=1-", "=2-")};${PARENT}`],
    ["a root too long", `${ROOT}0;${PARENT}`],
    ["a parent of zeros", `${ROOT};Parent=${"0".repeat(16)}`],
    ["a root of zeros", `Root=1-${"0".repeat(8)}-${"0".repeat(24)};${PARENT}`],
  ])("but not with %s", (_, header) => {
    expect(withHeader(header)).toBeUndefined();
  });
});

test("traceOf() prefers a valid traceparent to the header", () => {
  const header = `${ROOT};${PARENT}`;
  expect(withAttribute(`00-${ID}-${SPAN}-01`, header)?.traceId).toBe(ID);
  expect(withAttribute("nonsense", header)?.spanId).toBe("53995c3f42cd8ad8");
  expect(traceOf({ attributes: {}, body: "" })).toBeUndefined();
});

describe("traceOf() reads the attribute traceparent of an SNS notification", () => {
  const trace = { traceId: ID, spanId: SPAN, sampled: true };
  const attribute = { Type: "String", Value: `00-${ID}-${SPAN}-01` };
  const notification = (traceparent: unknown, more = {}) =>
    JSON.stringify({ Type: "Notification", Message: "{}", MessageAttributes: { traceparent }, ...more });

  test("before AWSTraceHeader, and after the attribute of the message", () => {
    const traceHeader = `${ROOT};${PARENT}`;
    expect(traceOf({ attributes: {}, traceHeader, body: notification(attribute) })).toEqual(trace);
    expect(traceOf({ attributes: {}, body: notification(attribute) })).toEqual(trace);
    const StringValue = `00-${ID}-${SPAN}-00`;
    const attributes = { traceparent: { DataType: "String", StringValue } };
    expect(traceOf({ attributes, body: notification(attribute) })).toEqual({ ...trace, sampled: false });
    expect(traceOf({ attributes: {}, traceHeader, body: notification({ Value: "x" }) })?.spanId).toBe(
      "53995c3f42cd8ad8",
    );
  });

  test.each([
    ["no JSON", `{"traceparent"`],
    ["null", `null "traceparent"`],
    ["an order", notification(attribute, { Type: undefined })],
    ["attributes that are null", notification(attribute, { MessageAttributes: null, other: { traceparent: 1 } })],
    ["no value", notification(null)],
    ["a value that is no text", notification({ Value: { toString: 1 } })],
    ["a value that is a list", notification({ Value: [attribute.Value] })],
  ])("but not with %s", (_, body) => {
    expect(body).toContain('"traceparent"');
    expect(traceOf({ attributes: {}, body })).toBeUndefined();
  });
});
