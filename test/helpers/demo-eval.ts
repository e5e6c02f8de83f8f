/** The demo adapters' evaluation sets, asked for as chats. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { DEMO, type DemoServer, taskOf } from "./demo-server.ts";

interface EvalRow {
  readonly prompt: string;
  readonly expected: string;
  readonly reference_output: string;
}

export const readEvalRows = (task: string): EvalRow[] =>
  readFileSync(join(DEMO, `eval/${task}.jsonl`), "utf8").trim().split("\n").map((line) => JSON.parse(line) as EvalRow);

export interface Accuracy {
  readonly numRows: number;
  /** Answers that are exactly what is expected. */
  readonly correct: number;
  /** Those of transformers and PEFT, as recorded with the model. */
  readonly reference: number;
  /** Answers in the very words of transformers and PEFT, right or wrong. */
  readonly sameWords: number;
}

const recorded = JSON.parse(readFileSync(join(DEMO, "eval/accuracy.json"), "utf8")) as Readonly<Record<string, { readonly adapter: number; readonly rows: number }>>;

/** Asks an adapter for all rows of its task at once. */
export async function accuracyOf(server: DemoServer, adapter: string): Promise<Accuracy> {
  const rows = readEvalRows(taskOf(adapter));
  const answers = await Promise.all(
    rows.map(async ({ prompt }) => {
      const body = { model: adapter, messages: [{ role: "user", content: prompt }], temperature: 0, max_tokens: 128 };
      const answer = (await (await server.post("/v1/chat/completions", body)).json()) as { choices: { message: { content: string } }[] };
      return answer.choices[0]!.message.content;
    }),
  );
  const { adapter: accuracy, rows: numRecorded } = recorded[taskOf(adapter)]!;
  return {
    numRows: rows.length,
    correct: rows.filter(({ expected }, i) => answers[i] === expected).length,
    reference: accuracy * numRecorded,
    sameWords: rows.filter((row, i) => answers[i] === row.reference_output).length,
  };
}
