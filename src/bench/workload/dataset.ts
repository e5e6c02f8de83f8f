/** Datasets as trtllm-bench reads them: one JSON object a line. */
import { ConfigError } from "../../core/errors.ts";

export interface DatasetRow {
  /** The row's number and nothing more: `lora` chooses the adapter. */
  readonly taskId: number;
  readonly prompt: string | readonly number[];
  /** Length of the answer, which end tokens do not shorten. */
  readonly outputTokens: number;
  /** `null` for the base model. */
  readonly lora: LoraReference | null;
}

export interface LoraReference {
  readonly name: string;
  readonly intId: number;
  /** Empty for an adapter that is known by its name. */
  readonly path: string;
}

/** @param name of the file, for messages @throws {ConfigError} `config_invalid` that names line and field */
export function parseDataset(text: string, name: string): DatasetRow[] {
  const rows = text.split("\n").flatMap((line, i) => (line.trim() === "" ? [] : [parseRow(line, `${name}:${i + 1}`)]));
  if (rows.length === 0) throw wrong(name, "has no rows; make one with lorikeet bench prepare-dataset");
  return rows;
}

export const formatDataset = (rows: readonly DatasetRow[]): string => rows.map((row) => `${JSON.stringify(plainRow(row))}\n`).join("");

const plainRow = ({ taskId, prompt, outputTokens, lora }: DatasetRow): object => ({
  task_id: taskId,
  ...(typeof prompt === "string" ? { prompt } : { input_ids: prompt }),
  output_tokens: outputTokens,
  ...(lora === null ? {} : { lora_request: { lora_name: lora.name, lora_int_id: lora.intId, lora_path: lora.path } }),
});

function parseRow(line: string, at: string): DatasetRow {
  let row: unknown;
  try {
    row = JSON.parse(line);
  } catch (cause) {
    throw wrong(at, "is not JSON; a dataset has one object a line", cause);
  }
  if (!isObject(row)) throw wrong(at, "must be an object");
  for (const field of ["media_paths", "turns"]) {
    if (row[field] !== undefined && row[field] !== null) throw wrong(`${at} ${field}`, "is not served: prompts are one text or one list of ids");
  }
  const ids = row["input_ids"] ?? row["logits"];
  const prompt = ids ?? row["prompt"];
  const isIds = Array.isArray(prompt) && prompt.length > 0 && prompt.every(isCount);
  if (!isIds && (typeof prompt !== "string" || prompt === "")) {
    throw wrong(`${at} ${ids === undefined || ids === null ? "prompt" : "input_ids"}`, "must be a non-empty text in prompt or a list of token ids in input_ids");
  }
  const outputTokens = row["output_tokens"];
  if (!isCount(outputTokens) || outputTokens < 1) throw wrong(`${at} output_tokens`, "must be a whole number from 1 up");
  const taskId = row["task_id"] ?? 0;
  if (!isCount(taskId)) throw wrong(`${at} task_id`, "must be a whole number from 0 up");
  return { taskId, prompt, outputTokens, lora: loraOf(row["lora_request"], `${at} lora_request`) };
}

function loraOf(given: unknown, at: string): LoraReference | null {
  if (given === undefined || given === null) return null;
  if (!isObject(given)) throw wrong(at, "must be an object");
  const { lora_name: name, lora_int_id: intId, lora_path: path = "" } = given;
  if (typeof name !== "string" || name === "") throw wrong(`${at}.lora_name`, "must be a non-empty string");
  if (!isCount(intId)) throw wrong(`${at}.lora_int_id`, "must be a whole number from 0 up");
  if (typeof path !== "string") throw wrong(`${at}.lora_path`, "must be a string");
  return { name, intId, path };
}

const isObject = (value: unknown): value is Record<string, unknown> => typeof value === "object" && value !== null && !Array.isArray(value);
const isCount = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0;

const wrong = (field: string, problem: string, cause?: unknown): ConfigError => new ConfigError("config_invalid", `${field} ${problem}`, { field, cause });
