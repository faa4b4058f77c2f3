/** The program with a system clock that SIGUSR2 sets an hour ahead, and another SIGUSR2 back. */
import { main } from "../../index.ts";

const now = Date.now;
let aheadMs = 0;
Date.now = () => now() + aheadMs;
process.on("SIGUSR2", () => {
  aheadMs = aheadMs === 0 ? 3_600_000 : 0;
});
await main();
