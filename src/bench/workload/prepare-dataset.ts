/** Datasets as trtllm-bench's prepare-dataset makes them, with popularities of adapters beside its own. */
import { ConfigError } from "../../core/errors.ts";
import type { DatasetRow, LoraReference } from "./dataset.ts";
import { drawLength, type Lengths, randomIds } from "./lengths.ts";
import { chooseAdapters, type Popularity } from "./popularity.ts";
import type { Random } from "./random.ts";

/** How rows come by an adapter. */
export type AdapterChoice =
  | { readonly kind: "none" }
  /** One for all. */
  | { readonly kind: "fixed"; readonly id: number; readonly loraDir: string }
  /** Ids from `least` to `most`, both included. */
  | { readonly kind: "range"; readonly least: number; readonly most: number; readonly popularity: Popularity; readonly loraDir: string };

export interface SyntheticOptions {
  readonly numRequests: number;
  readonly inputs: Lengths;
  readonly outputs: Lengths;
  readonly vocabSize: number;
  readonly adapters: AdapterChoice;
}

/** Ids are drawn uniformly over the vocabulary but for its first 256, which are special in many. */
export function syntheticDataset({ numRequests, inputs, outputs, vocabSize, adapters }: SyntheticOptions, random: Random): DatasetRow[] {
  const loras = adaptersOf(adapters, numRequests, random);
  return loras.map((lora, taskId) => ({
    taskId,
    prompt: randomIds(drawLength(inputs, random), vocabSize, random),
    outputTokens: drawLength(outputs, random),
    lora,
  }));
}

export interface RealOptions {
  /** JSON records of the data set. */
  readonly records: readonly Readonly<Record<string, unknown>>[];
  readonly inputKey: string;
  /** A field whose text goes before the input. */
  readonly promptKey: string | null;
  /** A text that goes before every input. */
  readonly prompt: string | null;
  /** A field whose text has the length of the answer, or `outputs`. */
  readonly outputKey: string | null;
  readonly outputs: Lengths | null;
  readonly numRequests: number;
  /** Longer inputs are left out; `null` for no limit. */
  readonly maxInputTokens: number | null;
  readonly encode: (text: string) => readonly number[];
  readonly adapters: AdapterChoice;
}

/** @throws {ConfigError} `config_invalid` for a field that a record lacks, or when no record is left */
export function realDataset(options: RealOptions, random: Random): DatasetRow[] {
  const { records, encode, maxInputTokens } = options;
  const rows: { prompt: readonly number[]; outputTokens: number }[] = [];
  for (const [i, record] of records.entries()) {
    if (rows.length === options.numRequests) break;
    const before = options.prompt ?? (options.promptKey === null ? "" : textOf(record, options.promptKey, i));
    const input = textOf(record, options.inputKey, i);
    const prompt = encode(before === "" ? input : `${before} ${input}`);
    if (prompt.length === 0 || (maxInputTokens !== null && prompt.length > maxInputTokens)) continue;
    const outputTokens = options.outputKey === null ? drawLength(options.outputs!, random) : Math.max(1, encode(textOf(record, options.outputKey, i)).length);
    rows.push({ prompt, outputTokens });
  }
  if (rows.length === 0) throw new ConfigError("config_invalid", "--dataset-name has no record within --max-input-len", { field: "--dataset-name" });
  const loras = adaptersOf(options.adapters, rows.length, random);
  return rows.map((row, taskId) => ({ taskId, ...row, lora: loras[taskId]! }));
}

function textOf(record: Readonly<Record<string, unknown>>, key: string, index: number): string {
  const value = record[key];
  if (typeof value === "string") return value;
  throw new ConfigError("config_invalid", `record ${index} of --dataset-name has no text "${key}"; its fields are ${Object.keys(record).join(", ")}`, { field: key });
}

function adaptersOf(choice: AdapterChoice, count: number, random: Random): (LoraReference | null)[] {
  if (choice.kind === "none") return Array.from({ length: count }, () => null);
  const reference = (id: number): LoraReference => ({ name: `lora_${id}`, intId: id, path: `${choice.loraDir.replace(/\/+$/, "")}/${id}` });
  if (choice.kind === "fixed") return Array.from({ length: count }, () => reference(choice.id));
  return chooseAdapters(choice.popularity, choice.most - choice.least + 1, count, random).map((index) => reference(choice.least + index));
}
