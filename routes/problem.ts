import { STATUS_CODES } from "node:http";
import type { ErrorHandler } from "elysia";
import type { Log } from "../log.ts";
import { ForeignKeyError } from "../store/store.ts";

/** An error response (RFC 9457). `detail` has the cause and what to do. */
export class Problem extends Error {
  constructor(
    readonly status: number,
    detail: string,
    readonly options: ErrorOptions & { retryAfterSeconds?: number } = {},
  ) {
    super(detail, options);
  }
}

/**
 * @returns the result of a read of the store
 * @throws a `Problem` with status 409 for a key of another program, and 503 for any other error
 */
export async function fromStore<T>(read: Promise<T>): Promise<T> {
  try {
    return await read;
  } catch (cause) {
    if (cause instanceof ForeignKeyError) throw new Problem(409, cause.message, { cause });
    throw new Problem(503, "The store is unavailable. Try again in a few seconds", { cause });
  }
}

/**
 * Checks the encoding of an id, because Elysia decodes invalid escapes to U+FFFD or not at all, which would be another id.
 *
 * @param id as decoded by Elysia
 * @param url that the id is a part of
 * @returns the id
 * @throws a `Problem` with status 400
 */
export function decodeId(id: string, url: string): string {
  try {
    if (url.includes("%")) decodeURIComponent(url);
  } catch {
    throw new Problem(400, "The id in the URL is not percent-encoded UTF-8");
  }
  return id;
}

interface Route {
  method: string;
  path: string;
}

type Set = Parameters<ErrorHandler>[0]["set"];

/** Sets the status and the headers of an error response. @returns its body */
function sendProblem(set: Set, status: number, detail: string, retryAfterSeconds = 2) {
  set.status = status;
  set.headers["content-type"] = PROBLEM_TYPE;
  if (status === 401) set.headers["www-authenticate"] ??= "Bearer";
  if (status === 503 || status === 429) set.headers["retry-after"] = `${retryAfterSeconds}`;
  return JSON.stringify({ type: "about:blank", title: STATUS_CODES[status], status, detail });
}

const BASIC = 'Basic realm="order statistics", charset="UTF-8"';
const PROBLEM_TYPE = "application/problem+json";

/**
 * @returns the handler that converts errors to responses. Errors that are not listed are bugs: they are logged, and the response
 *   has no details
 */
export function errorTable(log: Log, routes: () => readonly Route[]): ErrorHandler {
  return ({ code, error, set, path, request }) => {
    if (error instanceof Problem) {
      // With Basic, a browser asks the user for the key as a password. Browsers do not support Bearer.
      if (error.status === 401 && request.headers.get("accept")?.includes("text/html"))
        set.headers["www-authenticate"] = BASIC;
      if (error.status >= 500) log.warn({ event: "request_failed", path, reason: String(error.cause) });
      return sendProblem(set, error.status, error.message, error.options.retryAfterSeconds);
    }
    switch (code) {
      case "VALIDATION":
        return sendProblem(set, 422, error.message);
      case "PARSE":
      case "INVALID_COOKIE_SIGNATURE":
        return sendProblem(set, 400, "The request cannot be parsed");
      case "NOT_FOUND":
        return sendUnknownRoute(set, routes(), request.method, path);
      default:
        log.error({ event: "request_failed", path, error });
        return sendProblem(set, 500, "Internal error. The log of the service has the details");
    }
  };
}

function sendUnknownRoute(set: Set, routes: readonly Route[], method: string, path: string) {
  const matching = routes.filter((route) => matches(route.path, path));
  const allowed = [...new Set(matching.map((route) => route.method))];
  if (allowed.length === 0) return sendProblem(set, 404, `${path} does not exist. See /docs`);
  set.headers.allow = allowed.join(", ");
  return sendProblem(set, 405, `${method} is not allowed, only ${allowed.join(", ")}`);
}

function matches(pattern: string, path: string): boolean {
  const segments = path.split("/");
  const expected = pattern.split("/");
  const isMatch = (segment: string, index: number) =>
    expected[index]?.startsWith(":") ? segment !== "" : segment === expected[index];
  return segments.length === expected.length && segments.every(isMatch);
}
