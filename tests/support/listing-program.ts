import { main } from "../../index.ts";

/** The real program with workers that tell what they have loaded. */
await main(new URL("./listing-worker.ts", import.meta.url));
