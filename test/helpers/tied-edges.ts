/** A tied base, and adapters with rows of their own for all of its one matrix: the base's, or some of them changed. */
import type { AdapterWeights, Replacement } from "../../src/lora/adapter-weights.ts";
import { readWeight } from "./reference-executor.ts";
import { randomAdapter, randomWeights, TINY, tinyProgram } from "./tiny-program.ts";

export function tiedEdges() {
  const program = tinyProgram({ ...TINY, tied: true });
  const weights = randomWeights(program, 5);
  const plain = randomAdapter(program, 1, { ranks: [2], dtype: "BF16" });
  const embed = program.weights[0]!;
  const edges = program.sites.flatMap(({ kind }, site) => (kind === "embedding" || kind === "head" ? [site] : []));
  const withRows = (form: Replacement["form"], change: number): AdapterWeights => {
    const numbers = Float32Array.from(readWeight(weights, embed), (value, i) => (i % 7 === 0 ? value + change : value));
    const values = { dtype: "F32", rows: embed.rows, cols: embed.cols, bytes: new Uint8Array(numbers.buffer) } as const;
    return { ...plain, replacements: edges.map((site) => ({ site, part: "weight", form, rows: 0, values })) };
  };
  return { program, weights, plain, embed, withRows };
}
