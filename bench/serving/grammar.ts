/**
 * What rows that are held to a grammar cost themselves, and the rows beside them.
 *
 *   bun bench/serving/grammar.ts [--rows 8] [--tokens 96] [--repeats 5] [--json FILE]
 *
 * The demo model on two cores or more, in this process: `rows` plain sequences alone, beside as many plain ones, and beside as many
 * that must be JSON by a schema. A constrained row sits out until the grammar's thread has written what its next token may be.
 */
import { join } from "node:path";
import type { Grammar } from "../../src/core/grammar.ts";
import { givenOptions, resolveConfig } from "../../src/config/resolve.ts";
import { openRuntime } from "../../src/runtime/open-runtime.ts";
import { libraryDefaults, prepareRequests, promptTokens } from "../../src/runtime/requests.ts";
import { integerIn, parseFlags } from "../lib/flags.ts";
import { Neighbours, printTable, type Spread, spreadOf, writeRecord } from "../lib/record.ts";

const flags = parseFlags({ rows: "8", tokens: "96", repeats: "5", json: join(import.meta.dir, "../results/grammar-demo.json") });
const numRows = integerIn("rows", flags.rows, 1, 32);
const numTokens = integerIn("tokens", flags.tokens, 8, 512);
const repeats = integerIn("repeats", flags.repeats, 1, 100);
/** Cannot end before it has as many items, so that every row has as many tokens. */
const SCHEMA = JSON.stringify({ type: "array", minItems: 1000, items: { type: "object", properties: { name: { type: "string", maxLength: 12 }, age: { type: "integer" } }, required: ["name", "age"], additionalProperties: false } });

const model = join(import.meta.dir, "../../models/demo");
const { config } = resolveConfig(givenOptions({ model, backend: "wasm", maxBatchSize: 2 * numRows, maxNumTokens: 64 * numRows }));
const neighbours = new Neighbours();
const { runtime } = await openRuntime(config);
const compileStartMs = performance.now();
const grammar = await runtime.compileGrammar({ type: "json_schema", schema: SCHEMA });
const compileMs = performance.now() - compileStartMs;

/** One sequence. @returns milliseconds between its tokens */
async function gapsOf(held: Grammar | null): Promise<number[]> {
  const [request] = prepareRequests(runtime, {
    prompts: [promptTokens(runtime.model, "Once upon a time there was a list of people.")],
    adapter: null, grammar: held, params: { maxTokens: numTokens, ignoreEos: true }, defaults: libraryDefaults, fieldName: (field) => field,
  });
  const gaps: number[] = [];
  let lastMs: number | null = null;
  for await (const { tokens, finish } of runtime.generate(request!)) {
    if (finish !== null && finish.reason !== "length") throw new Error(`a row ended with ${finish.reason}`, { cause: finish.error });
    if (tokens.length === 0) continue;
    const nowMs = performance.now();
    if (lastMs !== null) gaps.push((nowMs - lastMs) / tokens.length);
    lastMs = nowMs;
  }
  return gaps;
}

interface Case {
  readonly name: string;
  readonly rows: readonly (readonly [kind: "plain" | "JSON", count: number])[];
}
const CASES: readonly Case[] = [
  { name: "plain alone", rows: [["plain", numRows]] },
  { name: "plain beside plain", rows: [["plain", 2 * numRows]] },
  { name: "plain beside JSON", rows: [["plain", numRows], ["JSON", numRows]] },
  { name: "JSON alone", rows: [["JSON", numRows]] },
];

interface Measured {
  /** Milliseconds between tokens of a row: median over rows and tokens, of each run. */
  readonly gapMs: Partial<Record<"plain" | "JSON", Spread>>;
  readonly tokensPerSecond: Spread;
}

const median = (values: readonly number[]): number => spreadOf(values).median;
const samples = new Map(CASES.map(({ name }) => [name, { plain: [] as number[], JSON: [] as number[], rate: [] as number[] }]));
await Promise.all([gapsOf(null), gapsOf(grammar)]);
// In turn, so that a slow minute is everybody's.
for (let run = 0; run < repeats; run++) {
  for (const { name, rows } of CASES) {
    const startMs = performance.now();
    const found = await Promise.all(rows.flatMap(([kind, count]) => Array.from({ length: count }, async () => ({ kind, gaps: await gapsOf(kind === "JSON" ? grammar : null) }))));
    const into = samples.get(name)!;
    into.rate.push((found.length * numTokens * 1000) / (performance.now() - startMs));
    for (const [kind] of rows) into[kind].push(median(found.filter((each) => each.kind === kind).flatMap(({ gaps }) => gaps)));
  }
}
const coresOfOthers = neighbours.cores();
await runtime.close(0);

const results = Object.fromEntries(
  [...samples].map(([name, { plain, JSON: held, rate }]): [string, Measured] => [
    name,
    { gapMs: { ...(plain.length === 0 ? {} : { plain: spreadOf(plain) }), ...(held.length === 0 ? {} : { JSON: spreadOf(held) }) }, tokensPerSecond: spreadOf(rate) },
  ]),
);
const shown = (spread: Spread | undefined): string => (spread === undefined ? "-" : `${spread.median.toFixed(2)} (${spread.min.toFixed(2)} to ${spread.max.toFixed(2)})`);
printTable(["rows", "ms between tokens of plain", "of JSON", "tokens/s"], Object.entries(results).map(([name, { gapMs, tokensPerSecond }]) => [name, shown(gapMs.plain), shown(gapMs.JSON), tokensPerSecond.median.toFixed(0)]));
console.log(`the grammar was compiled in ${compileMs.toFixed(0)} ms`);
await writeRecord(flags.json, "serving/grammar", { rows: numRows, tokens: numTokens, compileMs, results }, coresOfOthers);
process.exit(0);
