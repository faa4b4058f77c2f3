/**
 * OpenAPI documentation of the routes, with one TypeBox schema per response as a named component. The schemas are in `detail`, not
 * in Elysia's `response`, which would be validated for every request and from which the plugin generates invalid documents.
 */
import Type, { type TObject, type TProperties, type TSchema } from "typebox";
import { csvTable, type Row } from "./csv.ts";

export const Count = Type.Integer({ minimum: 0, example: 25 });
export const Amount = Type.Number({
  minimum: 0,
  description: "Exact to the cent",
  example: 3200.75,
});
export const Day = Type.String({ format: "date", example: "2024-12-13" });
/** @returns the schema of a string */
export const Text = (example: string, description?: string) =>
  Type.String({ example, ...(description && { description }) });
/** @returns the schema of a string with a fixed set of values */
export const OneOf = <const T extends string>(values: readonly T[]) =>
  Type.Unsafe<T>({ type: "string", enum: values, example: values[0] });
/** @returns the schema of a string that may be null */
export const Nullable = (schema: TSchema) => Type.Unsafe<string | null>({ ...schema, nullable: true });
export const AsOf = {
  as_of: Type.String({
    format: "date-time",
    description: "The response includes every order that was counted before this time",
    example: "2024-12-13T10:00:00.000Z",
  }),
};
/** @returns the field `as_of` of a response whose read began at `ms` */
export const asOf = (ms: number) => ({ as_of: new Date(ms).toISOString() });
/** The named schemas of all responses, filled by `operation`. */
export const schemas: Record<string, TSchema> = {};

schemas.Problem = Type.Object({
  type: Type.String(),
  title: Type.String(),
  status: Type.Integer(),
  detail: Type.String({ description: "The cause, and what to do" }),
});

const PROBLEMS: Record<number, string> = {
  400: "The request cannot be parsed",
  401: "API_KEY is set, and the `Authorization` header is missing or wrong",
  409: "The Redis key of the user holds data of another program",
  422: "A parameter is invalid. `detail` has the reason",
  429: "The client has sent too many requests or wrong keys, or has too many streams open. `Retry-After` has the seconds to wait",
  503: "The store is temporarily unavailable, or too many streams are open",
};

interface Operation {
  description?: string;
  /** Name of the response schema, for generated clients. Absent for text. */
  name?: string;
  response: TSchema;
  contentType?: string;
  /** Schema of a row, if the response can be CSV. */
  csv?: TObject;
  /** Status codes of the problems that the route can respond with. */
  problems?: number[];
  /** Describes a 503 with the same schema as the 200. */
  unavailable?: string;
  /** The route does not require the API key. */
  isPublic?: boolean;
}

/** Adds the response schema to `schemas`. @returns the `detail` of a route. Its parameters are documented by `params` and `query` */
export function operation(tag: string, summary: string, route: Operation) {
  const {
    description,
    name,
    response,
    contentType = "application/json",
    csv,
    problems = [],
    unavailable,
    isPublic = false,
  } = route;
  if (name) schemas[name] = response;
  const schema = name ? reference(name) : response;
  const content = {
    [contentType]: { schema, example: exampleOf(response) },
    ...(csv && { "text/csv": { schema: Type.String(), example: csvTable(csv, [exampleOf(csv) as Row]) } }),
  };
  const errors = [...(isPublic ? [] : [401, 429]), ...problems].map((status) => [status, problemResponse(status)]);
  return {
    summary,
    ...(description && { description }),
    tags: [tag],
    security: isPublic ? [] : [{ key: [] }],
    responses: {
      200: { description: "OK", content },
      ...(unavailable && { 503: { description: unavailable, content } }),
      ...Object.fromEntries(errors),
      // biome-ignore lint/suspicious/noExplicitAny: the types of the plugin do not cover all schemas of the specification
    } as any,
  };
}

const problemResponse = (status: number) => ({
  description: PROBLEMS[status] ?? "",
  content: { "application/problem+json": { schema: reference("Problem") } },
});

const reference = (name: string) => ({ $ref: `#/components/schemas/${name}` });

function exampleOf(schema: TSchema): unknown {
  const { properties, items, example } = schema as { properties?: TProperties; items?: TSchema; example?: unknown };
  if (properties) return Object.fromEntries(Object.entries(properties).map(([name, each]) => [name, exampleOf(each)]));
  return items ? [exampleOf(items)] : example;
}
