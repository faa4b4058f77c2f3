/** Waits until `condition` holds, looking every 10 ms; fails with `what` after `timeoutMs`. */
export async function waitFor(what: string, condition: () => unknown, timeoutMs = 10_000): Promise<void> {
  const deadline = performance.now() + timeoutMs;
  while (!(await condition())) {
    if (performance.now() > deadline) throw new Error(`Timed out after ${timeoutMs} ms waiting for ${what}`);
    await Bun.sleep(10);
  }
}
