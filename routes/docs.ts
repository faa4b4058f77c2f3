import { swagger } from "@elysiajs/swagger";
import { Elysia } from "elysia";
// Paths of the files, which the executable contains. The package itself would load all of Swagger UI into the server, 25 MB.
import favicon from "swagger-ui-dist/favicon-32x32.png" with { type: "file" };
import style from "swagger-ui-dist/swagger-ui.css" with { type: "file" };
import script from "swagger-ui-dist/swagger-ui-bundle.js" with { type: "file" };
import { version } from "../package.json";
import { schemas } from "./openapi.ts";
import { redirectSlash } from "./page-redirect.ts";
import { Problem } from "./problem.ts";

const ASSETS = new Map([
  ["swagger-ui.css", style],
  ["swagger-ui-bundle.js", script],
  ["favicon-32x32.png", favicon],
]);

const PAGE = `<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <title>order-stats API</title>
  <link rel="stylesheet" href="docs/swagger-ui.css">
  <style>.scheme-container:not(:has(.authorize)) { display: none }</style>
  <link rel="icon" href="docs/favicon-32x32.png">
</head>
<body>
  <div id="swagger-ui"></div>
  <script src="docs/swagger-ui-bundle.js"></script>
  <script src="docs/start.js"></script>
</body>
</html>
`;
/** @returns the script of the page: follows the theme of the browser, and has buttons for the key only if one is set */
const startScript = (hasKey: boolean) => `
const dark = matchMedia("(prefers-color-scheme: dark)");
const setTheme = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", setTheme);
setTheme();
const none = () => () => null;
const withoutKey = { wrapComponents: { authorizeBtn: none, authorizeOperationBtn: none } };
SwaggerUIBundle({
  url: "docs/json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  plugins: [${hasKey ? "" : "withoutKey"}],
});
`;
const PAGE_HEADERS = {
  "content-type": "text/html; charset=utf-8",
  // Only resources of this server, no inline scripts, no frames. Swagger UI needs inline styles.
  "content-security-policy":
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'",
  "x-content-type-options": "nosniff",
  "referrer-policy": "no-referrer",
};

/** @returns the routes of the OpenAPI document and of Swagger UI, from local files: the plugin's own page loads it from a CDN */
export function docsRoutes({ timeZone, apiKey }: { timeZone: string; apiKey?: string }) {
  const hide = { detail: { hide: true } };
  return new Elysia({ name: "docs" })
    .use(
      swagger({
        path: "/docs",
        specPath: "/docs/json",
        documentation: { ...DOCUMENT, info: { ...DOCUMENT.info, description: describe(timeZone) } },
        exclude: ["/docs", "/docs/json"],
      }),
    )
    .get("/docs", ({ request }) => redirectSlash(request) ?? new Response(PAGE, { headers: PAGE_HEADERS }), hide)
    .get(
      "/docs/start.js",
      () => new Response(startScript(apiKey !== undefined), { headers: { "content-type": "text/javascript" } }),
      hide,
    )
    .get(
      "/docs/:asset",
      ({ params: { asset } }) => {
        const path = ASSETS.get(asset);
        if (!path) throw new Problem(404, `/docs/${asset} does not exist`);
        return Bun.file(path);
      },
      hide,
    );
}

const describe = (timeZone: string) =>
  `Every order of the queue is counted exactly once. Amounts are exact to the cent. Days are those of the time zone ${timeZone}.`;

const DOCUMENT = {
  info: {
    title: "order-stats",
    version,
  },
  tags: [
    { name: "stats", description: "Overall and daily totals" },
    { name: "users", description: "Totals of users and leaderboards" },
    { name: "orders", description: "Outcomes of single orders" },
    { name: "service", description: "Health and metrics of the service" },
  ],
  components: {
    schemas: schemas as Record<string, object>,
    securitySchemes: { key: { type: "http" as const, scheme: "bearer", description: "Required if API_KEY is set" } },
  },
};
