/** Each adapter answers its own evaluation set as well as transformers and PEFT do, by the same words. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { accuracyOf } from "../helpers/demo-eval.ts";
import { ALL_ADAPTERS, type DemoServer, startDemo } from "../helpers/demo-server.ts";

let server: DemoServer;
beforeAll(async () => {
  server = await startDemo();
});
afterAll(() => server.stop());

test.each([...ALL_ADAPTERS])(
  "%s",
  async (task) => {
    const { numRows, correct, reference, sameWords } = await accuracyOf(server, task);
    expect(numRows).toBe(200);
    expect(Math.abs(correct - reference)).toBeLessThanOrEqual(1);
    // Wrong answers are the reference's too: within 1 of all 200, whatever was expected.
    expect(sameWords).toBeGreaterThanOrEqual(199);
  },
  120_000,
);
