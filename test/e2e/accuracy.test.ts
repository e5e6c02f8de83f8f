/** Each adapter answers its own evaluation set as well as the reference does. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { DEMO, DEMO_ADAPTERS, type DemoServer, startDemo, taskOf } from "../helpers/demo-server.ts";

interface Row {
  readonly prompt: string;
  readonly expected: string;
  readonly reference_output: string;
}

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
    const rows = readRows(taskOf(task));
    expect(rows.length).toBe(200);
    const answers = await Promise.all(
      rows.map(async ({ prompt }) => {
        const body = { model: task, messages: [{ role: "user", content: prompt }], temperature: 0, max_tokens: 128 };
        const answer = (await (await server.post("/v1/chat/completions", body)).json()) as {
          choices: { message: { content: string } }[];
        };
        return answer.choices[0]!.message.content.trim();
      }),
    );
    const correct = rows.filter(({ expected }, i) => answers[i] === expected.trim()).length;
    const reference = rows.filter((row) => row.reference_output.trim() === row.expected.trim()).length;
    expect(Math.abs(correct - reference)).toBeLessThanOrEqual(1);
  },
  120_000,
);
