/** `lorikeet bench prepare-dataset`: rows to a file. */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { formatDataset } from "./bench/workload/dataset.ts";
import type { Lengths } from "./bench/workload/lengths.ts";
import { parsePopularity } from "./bench/workload/popularity.ts";
import { type AdapterChoice, realDataset, syntheticDataset } from "./bench/workload/prepare-dataset.ts";
import { Random } from "./bench/workload/random.ts";
import type { BenchAsk, PrepareFlags } from "./config/bench-flags.ts";
import type { Config } from "./config/settings.ts";
import { ConfigError } from "./core/errors.ts";
import { downloadProgress } from "./download-progress.ts";
import { loadModel } from "./model/load-model.ts";
import { findModel, sourcesOf } from "./runtime/find-sources.ts";
import { promptTokens } from "./runtime/requests.ts";

type PrepareAsk = Extract<BenchAsk, { readonly mode: "token-norm-dist" | "token-unif-dist" | "real-dataset" }>;

/** @returns a line about what was written @throws {LorikeetError} */
export async function prepareDataset(config: Config, ask: PrepareAsk): Promise<string> {
  const adapters = adapterChoice(ask);
  const random = new Random(ask.randomSeed);
  const base = await findModel(sourcesOf({ ...config, onSource: downloadProgress(process.stderr) }), config.model);
  const model = await loadModel(base.path, { name: base.name });
  const rows =
    ask.mode === "real-dataset"
      ? realDataset({ ...realOptions(ask), adapters, encode: (text) => promptTokens(model, text) }, random)
      : syntheticDataset({ numRequests: ask.numRequests!, ...lengthsOf(ask), vocabSize: model.program.vocabSize, adapters }, random);
  writeFileSync(ask.output, formatDataset(rows));
  return `${rows.length} rows written to ${ask.output}\n`;
}

function lengthsOf(ask: Exclude<PrepareAsk, { readonly mode: "real-dataset" }>): { inputs: Lengths; outputs: Lengths } {
  if (ask.mode === "token-norm-dist") {
    return {
      inputs: { kind: "normal", mean: ask.inputMean!, deviation: ask.inputStdev! },
      outputs: { kind: "normal", mean: ask.outputMean!, deviation: ask.outputStdev! },
    };
  }
  return { inputs: range("input", ask.inputMin!, ask.inputMax!), outputs: range("output", ask.outputMin!, ask.outputMax!) };
}

function range(name: string, least: number, most: number): Lengths {
  if (least > most) throw wrong(`--${name}-min`, `${least} is above --${name}-max ${most}`);
  return { kind: "uniform", least, most };
}

/** trtllm-bench warns and goes on without adapters; a data set without what was asked for would measure something else. */
function adapterChoice({ taskId, randTaskId, loraDir, popularity }: PrepareFlags): AdapterChoice {
  if (taskId < 0 && randTaskId === null) {
    if (loraDir !== null) throw wrong("--lora-dir", "needs --task-id or --rand-task-id, which choose the adapters");
    return { kind: "none" };
  }
  if (taskId >= 0 && randTaskId !== null) throw wrong("--task-id", "is one adapter for all rows, --rand-task-id one for each; give one of them");
  if (loraDir === null) throw wrong("--lora-dir", "must be given with task ids: Task IDs require LoRA directory. Use --lora-dir or omit task IDs");
  const [least, most] = randTaskId ?? [taskId, taskId];
  const missing = Array.from({ length: Math.min(most - least + 1, MAX_CHECKED) }, (_, i) => least + i).find((id) => !existsSync(join(loraDir, String(id))));
  if (missing !== undefined) throw wrong("--lora-dir", `${loraDir} has no adapter ${missing}; adapters are named by their numbers`);
  if (randTaskId === null) return { kind: "fixed", id: taskId, loraDir };
  return { kind: "range", least, most, popularity: parsePopularity(popularity), loraDir };
}

const MAX_CHECKED = 100_000;

function realOptions(ask: Extract<PrepareAsk, { readonly mode: "real-dataset" }>) {
  if (ask.datasetName === null) throw wrong("--dataset-name", "must be given");
  if (ask.datasetInputKey === null) throw wrong("--dataset-input-key", "must be given");
  if (ask.datasetPrompt !== null && ask.datasetPromptKey !== null) throw wrong("--dataset-prompt", "and --dataset-prompt-key are one too many");
  if ((ask.datasetOutputKey === null) === (ask.outputLenDist === null)) throw wrong("--output-len-dist", "or --dataset-output-key must be given, one of them");
  return {
    records: readRecords(ask.datasetName), inputKey: ask.datasetInputKey, promptKey: ask.datasetPromptKey, prompt: ask.datasetPrompt,
    outputKey: ask.datasetOutputKey, outputs: ask.outputLenDist === null ? null : outputLengths(ask.outputLenDist),
    numRequests: ask.numRequests, maxInputTokens: ask.maxInputLen,
  };
}

function outputLengths(given: string): Lengths {
  const [mean = NaN, deviation = NaN, ...rest] = given.split(",").map((each) => (each.trim() === "" ? NaN : Number(each)));
  if (rest.length > 0 || !(mean >= 1) || !(deviation >= 0)) throw wrong("--output-len-dist", `must be MEAN,STDEV, as 128,16, got "${given}"`);
  return { kind: "normal", mean, deviation };
}

function readRecords(path: string): Readonly<Record<string, unknown>>[] {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (cause) {
    throw wrong("--dataset-name", `${path} cannot be read; give a JSON file, such as a data set's to_json writes`, cause);
  }
  const parse = (part: string, at: string): unknown => {
    try {
      return JSON.parse(part);
    } catch (cause) {
      throw wrong("--dataset-name", `${at} is not JSON`, cause);
    }
  };
  const lines = text.split("\n").filter((line) => line.trim() !== "");
  const isLines = lines.length > 1 && lines[0]!.trimStart().startsWith("{") && lines[0]!.trimEnd().endsWith("}");
  const whole = isLines ? lines.map((line, i) => parse(line, `${path}:${i + 1}`)) : parse(text, path);
  const { data, rows } = (typeof whole === "object" && whole !== null ? whole : {}) as { readonly data?: unknown; readonly rows?: unknown };
  const list = [whole, data, rows].find((each) => Array.isArray(each)) as readonly unknown[] | undefined;
  if (list === undefined || !list.every((each) => typeof each === "object" && each !== null && !Array.isArray(each))) {
    throw wrong("--dataset-name", `${path} must be a list of objects, one object a line, or an object with such a list in data or rows`);
  }
  return list as Readonly<Record<string, unknown>>[];
}

const wrong = (field: string, problem: string, cause?: unknown): ConfigError => new ConfigError("config_invalid", `${field} ${problem}`, { field, cause });
