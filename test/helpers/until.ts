/** Waits for something that other tasks bring about. @throws after `maxMs` */
export async function until(condition: () => boolean | Promise<boolean>, maxMs = 5_000): Promise<void> {
  const deadline = performance.now() + maxMs;
  while (!(await condition())) {
    if (performance.now() > deadline) throw new Error(`not reached within ${maxMs} ms: ${condition.toString()}`);
    await Bun.sleep(1);
  }
}
