/** Every checkpoint and adapter of `test/fixtures` with what transformers and PEFT computed in float32. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { REPOSITORY } from "./repository.ts";

interface Golden {
  readonly base: string;
  readonly adapter?: string | null;
  readonly input_ids: readonly number[];
  readonly last_logits: readonly number[];
  readonly greedy: readonly number[];
  readonly active_from?: number | null;
}

export interface FixtureCase {
  readonly name: string;
  /** Directories. */
  readonly base: string;
  readonly adapter: string | null;
  readonly prompt: readonly number[];
  /** First position that the adapter computes, `Infinity` for none; left out for all. */
  readonly activeFrom?: number;
  /** After the prompt. */
  readonly logits: readonly number[];
  readonly greedy: readonly number[];
}

const FIXTURES = join(REPOSITORY, "test/fixtures");
const readGolden = (path: string): [string, Golden][] =>
  Object.entries(JSON.parse(readFileSync(join(FIXTURES, path), "utf8")) as Record<string, Golden>);

const peftCases: readonly FixtureCase[] = [...readGolden("peft/golden.json"), ...readGolden("peft/golden_moe.json")]
  .map(([name, { base, input_ids, last_logits, greedy }]) => ({
    name: `peft/${name}`,
    base: join(FIXTURES, "peft", base),
    adapter: name.startsWith("_") ? null : join(FIXTURES, "peft", name),
    prompt: input_ids,
    logits: last_logits,
    greedy: greedy.slice(input_ids.length),
  }));

/** A set made by a script of `scripts/reference`. */
const casesOf = (set: string): readonly FixtureCase[] =>
  readGolden(`${set}/golden.json`).map(([name, { base, adapter, input_ids, last_logits, greedy, active_from }]) => ({
    name: `${set}/${name}`,
    base: join(FIXTURES, set, base),
    adapter: adapter == null ? null : join(FIXTURES, set, adapter),
    prompt: input_ids,
    logits: last_logits,
    greedy,
    ...(active_from === undefined ? {} : { activeFrom: active_from ?? Infinity }),
  }));

const nemoCases: readonly FixtureCase[] = readGolden("peft/nemo/golden.json").map(([name, { base, input_ids, last_logits, greedy }]) => ({
  name: `nemo/${name}`,
  base: join(FIXTURES, "peft", base),
  adapter: join(FIXTURES, "peft/nemo", `${name}.nemo`),
  prompt: input_ids,
  logits: last_logits,
  greedy: greedy.slice(input_ids.length),
}));

export const FIXTURE_CASES: readonly FixtureCase[] = [
  ...peftCases, ...nemoCases, ...casesOf("architectures"), ...casesOf("forms"), ...casesOf("experts"), ...casesOf("activated"), ...casesOf("replacements"),
];
export const NUM_FIXTURE_CASES = 21 + 6 + 27 + 13 + 11 + 10 + 29;

/** Cases of bases with experts, and of those without. */
const hasExperts = ({ base }: FixtureCase): boolean => /\/experts\/|base_mixtral/.test(base);
export const NUM_EXPERT_CASES = 5 + 11 + 3;
export const EXPERT_CASES: readonly FixtureCase[] = FIXTURE_CASES.filter(hasExperts);
export const NUM_DENSE_CASES = NUM_FIXTURE_CASES - NUM_EXPERT_CASES;
export const DENSE_CASES: readonly FixtureCase[] = FIXTURE_CASES.filter((one) => !hasExperts(one));
