import { main } from "../../index.ts";

/** The real program with workers that fail by themselves. */
await main(new URL("./sabotaged-worker.ts", import.meta.url));
