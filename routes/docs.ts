import { join } from "node:path";
import { swagger } from "@elysiajs/swagger";
import { Elysia } from "elysia";
// Not the package itself: that would run the whole page here, 25 MB of it.
import absolutePath from "swagger-ui-dist/absolute-path.js";
import { PROBLEM_SCHEMA } from "./openapi.ts";
import { Problem } from "./problem.ts";

const ASSETS = ["swagger-ui.css", "swagger-ui-bundle.js", "favicon-32x32.png"];

const PAGE = `<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <title>Order statistics API</title>
  <link rel="stylesheet" href="docs/swagger-ui.css">
  <link rel="icon" href="docs/favicon-32x32.png">
</head>
<body>
  <div id="swagger-ui"></div>
  <script src="docs/swagger-ui-bundle.js"></script>
  <script src="docs/start.js"></script>
</body>
</html>
`;
const START = `SwaggerUIBundle({ url: "docs/json", dom_id: "#swagger-ui", deepLinking: true });\n`;
const PAGE_HEADERS = {
  "content-type": "text/html; charset=utf-8",
  // Everything from here and nothing inline but the styles that Swagger UI sets; in nobody else's frame.
  "content-security-policy":
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'",
  "x-content-type-options": "nosniff",
  "referrer-policy": "no-referrer",
};

/** The OpenAPI document at /docs/json and Swagger UI at /docs; the plugin's own page would load it from a CDN. */
export function docsRoutes() {
  const hide = { detail: { hide: true } };
  return new Elysia({ name: "docs" })
    .use(
      swagger({
        path: "/docs",
        specPath: "/docs/json",
        documentation: DOCUMENT,
        exclude: ["/docs", "/docs/json"],
      }),
    )
    .get("/docs", () => new Response(PAGE, { headers: PAGE_HEADERS }), hide)
    .get("/docs/start.js", () => new Response(START, { headers: { "content-type": "text/javascript" } }), hide)
    .get(
      "/docs/:asset",
      ({ params: { asset } }) => {
        if (!ASSETS.includes(asset)) throw new Problem(404, `There is nothing at /docs/${asset}`);
        return Bun.file(join(absolutePath(), asset));
      },
      hide,
    );
}

const DOCUMENT = {
  info: {
    title: "Order statistics API",
    version: "1.0.0",
    description: "Every order of the queue is counted exactly once. Amounts are exact to the cent; days are UTC.",
  },
  tags: [
    { name: "stats", description: "Totals overall and by day" },
    { name: "users", description: "Users and their ranking" },
    { name: "service", description: "The service itself" },
  ],
  components: {
    schemas: { Problem: PROBLEM_SCHEMA },
    securitySchemes: { key: { type: "http" as const, scheme: "bearer", description: "Where API_KEY is set" } },
  },
};
