import { createRandom } from "./random.ts";

/** The real consumer, in a thread that fails by itself after some seconds. */
const random = createRandom(Date.now());
const sabotage = {
  throw: () => {
    throw new Error("thrown on purpose");
  },
  reject: () => void Promise.reject(new Error("rejected on purpose")),
  exit: () => process.exit(0),
  spin: () => {
    for (;;);
  },
  nothing: () => {},
};
setTimeout(random.pick(Object.values(sabotage)), random.between(2_000, 15_000));
await import("../../consumer/worker.ts");
