import { STATUS_CODES } from "node:http";
import type { ErrorHandler } from "elysia";
import type { Log } from "../log.ts";

/** An answer that is an error, RFC 9457; `detail` tells a person what to do. */
export class Problem extends Error {
  constructor(
    readonly status: number,
    detail: string,
    options?: ErrorOptions,
  ) {
    super(detail, options);
  }
}

/** What the store answers; a store that cannot be read is a 503 and not an error of ours. */
export async function fromStore<T>(answer: Promise<T>): Promise<T> {
  try {
    return await answer;
  } catch (cause) {
    throw new Problem(503, "The store cannot be read just now: try again in a few seconds", { cause });
  }
}

/** The id that Elysia has decoded from the path; it turns a broken escape into U+FFFD, which would be another id. */
export function decodeId(id: string, path: string): string {
  try {
    if (path.includes("%")) decodeURIComponent(path);
  } catch {
    throw new Problem(400, "The id in the path is not percent-encoded UTF-8");
  }
  return id;
}

interface Route {
  method: string;
  path: string;
}

type Set = Parameters<ErrorHandler>[0]["set"];

/** Writes a problem; the one place that gives errors their form. */
export function answerProblem(set: Set, status: number, detail: string) {
  set.status = status;
  set.headers["content-type"] = PROBLEM_TYPE;
  if (status === 401) set.headers["www-authenticate"] ??= "Bearer";
  if (status === 503) set.headers["retry-after"] = "2";
  return problemOf(status, detail);
}

const BASIC = 'Basic realm="order statistics", charset="UTF-8"';
export const PROBLEM_TYPE = "application/problem+json";

/** The body of a problem. */
export function problemOf(status: number, detail: string): string {
  return JSON.stringify({ type: "about:blank", title: STATUS_CODES[status], status, detail });
}

/**
 * The one table of errors. What is not in it is ours: logged for the operator, never shown. `advice` ends the sentence
 * for those who ask for what is not there.
 */
export function errorTable(log: Log, routes: () => readonly Route[], advice: string): ErrorHandler {
  return ({ code, error, set, path, request }) => {
    if (error instanceof Problem) {
      // For people: their browser asks for the key, as anybody's password, and sends it from then on. It knows one
      // challenge a header line, and Bearer is none of them.
      if (error.status === 401 && request.headers.get("accept")?.includes("text/html"))
        set.headers["www-authenticate"] = BASIC;
      if (error.status >= 500) log.warn({ event: "request_failed", path, reason: String(error.cause) });
      return answerProblem(set, error.status, error.message);
    }
    switch (code) {
      case "VALIDATION":
        return answerProblem(set, 422, error.message);
      case "PARSE":
      case "INVALID_COOKIE_SIGNATURE":
        return answerProblem(set, 400, "The request cannot be parsed");
      case "NOT_FOUND":
        return answerUnknownRoute(set, routes(), request.method, path, advice);
      default:
        log.error({ event: "request_failed", path, error });
        return answerProblem(set, 500, "Something went wrong on our side; the log of the service says what");
    }
  };
}

function answerUnknownRoute(set: Set, routes: readonly Route[], method: string, path: string, advice: string) {
  const fitting = routes.filter((route) => matches(route.path, path));
  const allowed = [...new Set(fitting.map((route) => route.method))];
  if (allowed.length === 0) return answerProblem(set, 404, `There is nothing at ${path}: ${advice}`);
  set.headers.allow = allowed.join(", ");
  return answerProblem(set, 405, `${method} is not possible here, only ${allowed.join(", ")}`);
}

function matches(pattern: string, path: string): boolean {
  const parts = path.split("/");
  const expected = pattern.split("/");
  const fits = (part: string, index: number) =>
    expected[index]?.startsWith(":") ? part !== "" : part === expected[index];
  return parts.length === expected.length && parts.every(fits);
}
