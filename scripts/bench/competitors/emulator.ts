/** The queue, in memory: on disk it would be the slowest part. GET /requests returns how many requests its consumers have sent. */

import { buildApp } from "fauxqs";

const app = buildApp({ logger: false, host: "" });
let requests = 0;
app.addHook("onRequest", async ({ headers }: { headers: Record<string, unknown> }) => {
  if (/Receive|Delete|Visibility/.test(`${headers["x-amz-target"]}`)) requests++;
});
app.get("/requests", () => `${requests}`);
await app.listen({ host: "127.0.0.1", port: Number(Bun.env.PORT) });
