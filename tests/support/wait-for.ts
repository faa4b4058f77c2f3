/** Waits until `condition` holds, looking every 10 ms; fails with `what` after `timeoutMs`. */
export async function waitFor(what: string, condition: () => unknown, timeoutMs = 10_000): Promise<void> {
  const deadline = Date.now() + timeoutMs;
  while (!(await condition())) {
    if (Date.now() > deadline) throw new Error(`Timed out after ${timeoutMs} ms waiting for ${what}`);
    await Bun.sleep(10);
  }
}
