/** Each adapter answers its own evaluation set as well as transformers and PEFT do, by the same words. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { DEMO, DEMO_ADAPTERS, type DemoServer, startDemo } from "../helpers/demo-server.ts";

interface Row {
  readonly prompt: string;
  readonly expected: string;
  readonly reference_output: string;
}

const reference = JSON.parse(readFileSync(join(DEMO, "eval/accuracy.json"), "utf8")) as Record<string, { adapter: number; rows: number }>;

const readRows = (task: string): Row[] =>
  readFileSync(join(DEMO, `eval/${task}.jsonl`), "utf8").trim().split("\n").map((line) => JSON.parse(line) as Row);

let server: DemoServer;
beforeAll(async () => {
  server = await startDemo();
});
afterAll(() => server.stop());

test.each([...DEMO_ADAPTERS])(
  "%s",
  async (task) => {
    const rows = readRows(task);
    expect(rows.length).toBe(200);
    const answers = await Promise.all(
      rows.map(async ({ prompt }) => {
        const body = { model: task, messages: [{ role: "user", content: prompt }], temperature: 0, max_tokens: 128 };
        const answer = (await (await server.post("/v1/chat/completions", body)).json()) as {
          choices: { message: { content: string } }[];
        };
        return answer.choices[0]!.message.content;
      }),
    );
    const numCorrect = rows.filter(({ expected }, i) => answers[i] === expected).length;
    const { adapter, rows: numRows } = reference[task]!;
    expect(numRows).toBe(200);
    expect(Math.abs(numCorrect - adapter * numRows)).toBeLessThanOrEqual(1);
    // Wrong answers are the reference's too: within 1 of all 200, whatever was expected.
    expect(rows.filter(({ reference_output }, i) => answers[i] === reference_output).length).toBeGreaterThanOrEqual(199);
  },
  120_000,
);
