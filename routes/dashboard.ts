import { Elysia } from "elysia";
import { bundleDashboard } from "./dashboard-bundle.ts";
import { redirectSlash } from "./page-redirect.ts";
import { Problem } from "./problem.ts";

const HEADERS = {
  // Only resources of this server, no inline scripts, no frames. The plotting library needs inline styles.
  "content-security-policy":
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'",
  "x-content-type-options": "nosniff",
  "referrer-policy": "no-referrer",
  vary: "accept-encoding",
};

type Bundle = Map<
  string,
  { bytes: Buffer<ArrayBuffer>; gzipped: Uint8Array<ArrayBuffer>; headers: Record<string, string> }
>;

/** @returns the routes of the dashboard. Its document, script and style are bundled on the first request */
export function dashboardRoutes() {
  const hide = { detail: { hide: true } };
  let bundling: Promise<Bundle> | undefined;

  async function serve(name: string, headers: Record<string, string | undefined>): Promise<Response> {
    bundling ??= bundle();
    const file = (await bundling).get(name);
    if (!file) throw new Problem(404, `/dashboard/${name} does not exist`);
    if (headers["if-none-match"] === file.headers.etag)
      return new Response(null, { status: 304, headers: file.headers });
    const zip = /\bgzip\b/.test(headers["accept-encoding"] ?? "");
    return new Response(zip ? file.gzipped : file.bytes, {
      headers: { ...file.headers, ...HEADERS, ...(zip && { "content-encoding": "gzip" }) },
    });
  }

  return new Elysia({ name: "dashboard" })
    .get("/dashboard", ({ headers, request }) => redirectSlash(request) ?? serve("page.html", headers), hide)
    .get("/dashboard/:file", ({ params: { file }, headers }) => serve(file, headers), hide);
}

/** @returns the files by name. Script and style can be cached for ever, since their names contain a hash of their content */
async function bundle(): Promise<Bundle> {
  const files = await bundleDashboard();
  const entries = files.map(({ name, type, text }) => {
    const bytes = Buffer.from(text);
    const headers = {
      "content-type": type,
      "cache-control": name === "page.html" ? "no-cache" : "max-age=31536000, immutable",
      etag: `"${Bun.hash(bytes).toString(36)}"`,
    };
    return [name, { bytes, gzipped: Bun.gzipSync(bytes), headers }] as const;
  });
  return new Map(entries);
}
