import type { AnyElysia } from "elysia";
import { Problem } from "./problem.ts";

/**
 * @returns a function that throws a `Problem` with status 422 for a query parameter that the matched route does not have, or that
 *   is given twice. The pages /docs and /dashboard, which the documentation hides, accept any: the dashboard keeps its state there
 */
export function createQueryCheck(routes: () => AnyElysia["routes"]): (url: string, path: string) => void {
  return (url, path) => {
    const start = url.indexOf("?");
    if (start === -1) return;
    const { query, detail } = routes().find((route) => route.path === path)?.hooks ?? {};
    if (detail?.hide) return;
    const known = Object.keys(query?.properties ?? {});
    const names = [...new URLSearchParams(url.slice(start)).keys()];
    const unknown = [...new Set(names)].filter((name) => !known.includes(name)).map((name) => `"${name}"`);
    if (unknown.length > 0) {
      const has = known.length > 0 ? `has ${known.join(", ")}` : "has no query parameters";
      throw new Problem(422, `Unknown query parameter ${unknown.join(", ")}: this route ${has}`);
    }
    const repeated = names.find((name, index) => names.indexOf(name) !== index);
    if (repeated !== undefined) throw new Problem(422, `${repeated} is given twice`);
  };
}
