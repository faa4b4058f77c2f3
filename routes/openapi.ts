/** Small builders for OpenAPI 3.0 operations. Elysia's own conversion of schemas yields documents that do not validate. */

type Schema = Record<string, unknown>;

interface Operation {
  summary: string;
  description?: string;
  tag: string;
  /** Whether it answers without a key. */
  open?: boolean;
  parameters?: Parameter[];
  /** The successful answer: its schema and an example. */
  schema: Schema;
  example: unknown;
  /** Status codes of the problems it may answer. */
  problems?: number[];
  contentType?: string;
}

interface Parameter {
  name: string;
  in: "path" | "query" | "header";
  description: string;
  required: boolean;
  schema: Schema;
  example?: unknown;
}

const PROBLEMS: Record<number, string> = {
  400: "The request cannot be parsed",
  401: "API_KEY is set and the request has no or a wrong `Authorization`",
  410: "The listing is no longer kept: begin again without a cursor",
  422: "A parameter is not valid; `detail` says which and why",
  503: "The store or the queue cannot be reached just now",
};

export const PROBLEM_SCHEMA = object({
  type: { type: "string" },
  title: { type: "string" },
  status: { type: "integer" },
  detail: { type: "string", description: "What a person can do about it" },
});

/** A route's `detail`. */
export function operation({
  summary,
  description,
  tag,
  open = false,
  parameters = [],
  schema,
  example,
  problems = [],
  contentType,
}: Operation) {
  const content = { [contentType ?? "application/json"]: { schema, example } };
  return {
    summary,
    ...(description && { description }),
    tags: [tag],
    security: open ? [] : [{ key: [] }],
    // biome-ignore lint/suspicious/noExplicitAny: the plugin's types know fewer schemas than the specification
    parameters: parameters as any,
    responses: {
      200: { description: "OK", content },
      ...Object.fromEntries([...(open ? [] : [401]), ...problems].map((status) => [status, problem(status)])),
    },
  };
}

function problem(status: number) {
  const schema = { $ref: "#/components/schemas/Problem" };
  return { description: PROBLEMS[status] ?? "", content: { "application/problem+json": { schema } } };
}

/** An object schema whose properties are all required. */
export function object(properties: Record<string, Schema>) {
  return { type: "object" as const, properties, required: Object.keys(properties) };
}

export const COUNT = { type: "integer", minimum: 0 };
export const AMOUNT = { type: "number", minimum: 0, description: "Exact to the cent, at most two decimals" };

/** When the read of an answer began: every order counted before that is in it. */
export const asOf = (ms: number) => ({ as_of: new Date(ms).toISOString() });
export const AS_OF = {
  as_of: {
    type: "string",
    format: "date-time",
    description: "Every order counted before this moment is in the answer",
  },
};
