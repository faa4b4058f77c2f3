/** The SQS emulator in memory, and how many messages it has handed out at /deliveries. */

import { buildApp } from "fauxqs";

const app = buildApp({ logger: false, host: "" });
let deliveries = 0;
app.addHook("onSend", async ({ headers }: { headers: Record<string, unknown> }, _: unknown, answer: unknown) => {
  if (`${headers["x-amz-target"]}`.endsWith(".ReceiveMessage"))
    deliveries += JSON.parse(`${answer}`).Messages?.length ?? 0;
});
app.get("/deliveries", () => deliveries);
await app.listen({ host: "127.0.0.1", port: Number(process.argv[2]) });
