/**
 * Accuracy of each adapter, and of the base model, on the adapter's own evaluation set.
 *
 *   bun examples/evaluate-adapters.ts [ROWS]     rows of each set, 20 by default; 200 are all
 *
 * Everything is asked at once; the scheduler makes mixed batches of it.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { LLM, LoRARequest } from "lorikeet";

interface Row {
  readonly prompt: string;
  readonly expected: string;
}

const MODEL = join(import.meta.dir, "../models/demo");
const numRows = Number(process.argv[2] ?? 20);
if (!Number.isInteger(numRows) || numRows < 1) throw new Error(`ROWS must be a whole number above 0, got ${process.argv[2]}`);

await using llm = new LLM({ model: MODEL, loraConfig: { loraDir: [join(MODEL, "adapters")] }, maxQueue: 100_000 });

const rowsOf = (adapter: string): Row[] =>
  readFileSync(join(MODEL, "eval", `${adapter}.jsonl`), "utf8").trim().split("\n").slice(0, numRows).map((line) => JSON.parse(line) as Row);

async function accuracy(rows: readonly Row[], loraRequest: LoRARequest | null): Promise<number> {
  const prompts = rows.map(({ prompt }) => ({ messages: [{ role: "user", content: prompt }] }));
  const outputs = await llm.generate(prompts, { maxTokens: 96 }, { loraRequest });
  return outputs.filter(({ text }, i) => text.trim() === rows[i]!.expected).length / rows.length;
}

const names = ["arithmetic", "extract-json", "pirate", "roman", "sentiment", "sql", "summarize", "translate-fr"];
const table = await Promise.all(
  names.map(async (adapter, i) => {
    const rows = rowsOf(adapter);
    const [withAdapter, base] = await Promise.all([accuracy(rows, new LoRARequest(adapter, i)), accuracy(rows, null)]);
    return { adapter, rows: rows.length, accuracy: withAdapter, base };
  }),
);
console.table(table);
