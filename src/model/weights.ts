/**
 * A base model's tensors: one `model.safetensors`, or shards listed by `model.safetensors.index.json`.
 *
 * Opening reads headers only. Tensor bytes go from the files straight into the caller's memory.
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { ModelError } from "../core/errors.ts";
import { FormatError, quoted } from "../formats/format-error.ts";
import { isJsonObject } from "../formats/json.ts";
import { SafetensorsFile } from "../formats/safetensors-file.ts";
import { BASE_MODEL_LIMITS, DTYPE_BYTES, type TensorEntry } from "../formats/safetensors.ts";
import { errorName, readJsonFile } from "./read-json-file.ts";
import type { TensorInfo, WeightSource } from "./weight-source.ts";

const SINGLE = "model.safetensors";
const INDEX = "model.safetensors.index.json";
const MAX_SHARDS = 1024;
const SHARD_NAME = /^[A-Za-z0-9][\w.-]{0,199}\.safetensors$/;

interface StoredTensor extends TensorEntry {
  readonly fileName: string;
  readonly file: SafetensorsFile;
}

export class Checkpoint implements WeightSource {
  readonly #tensors: ReadonlyMap<string, StoredTensor>;

  constructor(tensors: ReadonlyMap<string, StoredTensor>) {
    this.#tensors = tensors;
  }

  get tensorNames(): Iterable<string> {
    return this.#tensors.keys();
  }

  /** @returns the shape as stored, `undefined` when there is no such tensor */
  shape(tensor: string): readonly number[] | undefined {
    return this.#tensors.get(tensor)?.shape;
  }

  info(tensor: string): TensorInfo {
    const { dtype, shape, fileName: file } = this.#find(tensor);
    const [rows, ...inner] = shape;
    if (rows === undefined || shape.length > 3) {
      throw new ModelError(
        "model_invalid",
        `tensor ${tensor} has shape [${shape.join(", ")}]; weights have one to three dimensions`,
      );
    }
    // Matrices of a parameter of three dimensions are stacked as they lie.
    return inner.length === 2
      ? { dtype, rows: rows * inner[0]!, cols: inner[1]!, file }
      : { dtype, rows, cols: inner[0] ?? 1, file };
  }

  readRows(tensor: string, rowStart: number, numRows: number, target: Uint8Array): void {
    const { stored, offset, bytes } = this.#range(tensor, rowStart, numRows, target);
    readingFile(stored.fileName, () => stored.file.read(stored, offset, bytes));
  }

  async readRowsAsync(tensor: string, rowStart: number, numRows: number, target: Uint8Array): Promise<void> {
    const { stored, offset, bytes } = this.#range(tensor, rowStart, numRows, target);
    await stored.file.readAsync(stored, offset, bytes).catch((cause: unknown) => {
      throw fileError(stored.fileName, cause);
    });
  }

  #range(tensor: string, rowStart: number, numRows: number, target: Uint8Array) {
    const stored = this.#find(tensor);
    const { dtype, cols } = this.info(tensor);
    const rowBytes = cols * DTYPE_BYTES[dtype];
    return { stored, offset: rowStart * rowBytes, bytes: target.subarray(0, numRows * rowBytes) };
  }

  #find(tensor: string): StoredTensor {
    const stored = this.#tensors.get(tensor);
    if (stored === undefined) {
      throw new ModelError("model_invalid", `tensor ${tensor} is not in the model's files`);
    }
    return stored;
  }
}

/** @throws {ModelError} when files are missing, malformed, or do not hold what the index says */
export function openCheckpoint(directory: string): Checkpoint {
  if (existsSync(join(directory, SINGLE))) return new Checkpoint(openShard(directory, SINGLE));
  const shardOf = readIndex(directory);
  if (shardOf === undefined) throw noWeights(directory);

  const shards = [...new Set(shardOf.values())];
  if (shards.length > MAX_SHARDS) {
    throw new ModelError(
      "model_invalid",
      `${INDEX} lists ${shards.length} files, more than the ${MAX_SHARDS} allowed`,
    );
  }
  const tensors = new Map<string, StoredTensor>();
  for (const shard of shards) {
    for (const [name, stored] of openShard(directory, shard)) {
      if (shardOf.get(name) !== shard) {
        const listed = shardOf.get(name);
        throw new ModelError(
          "model_invalid",
          `${shard} holds tensor ${name}, which ${INDEX} lists ${listed === undefined ? "nowhere" : `in ${listed}`}`,
        );
      }
      tensors.set(name, stored);
    }
  }
  for (const [name, shard] of shardOf) {
    if (!tensors.has(name)) {
      throw new ModelError(
        "model_invalid",
        `${INDEX} lists tensor ${name} in ${shard}, which does not hold it`,
      );
    }
  }
  return new Checkpoint(tensors);
}

function openShard(directory: string, fileName: string): Map<string, StoredTensor> {
  const file = readingFile(fileName, () => SafetensorsFile.open(join(directory, fileName)));
  return new Map([...file.tensors].map(([name, entry]) => [name, { ...entry, fileName, file }]));
}

function readIndex(directory: string): Map<string, string> | undefined {
  const index = readJsonFile(directory, INDEX, {
    maxBytes: BASE_MODEL_LIMITS.maxHeaderBytes,
    maxDepth: 4,
  });
  if (index === undefined) return undefined;
  const map = index["weight_map"];
  if (!isJsonObject(map))
    throw new ModelError("model_invalid", `weight_map in ${INDEX} must be an object`);
  return new Map(
    Object.entries(map).map(([name, shard]) => {
      if (typeof shard === "string" && SHARD_NAME.test(shard)) return [name, shard];
      const found = typeof shard === "string" ? quoted(shard) : "no string";
      throw new ModelError(
        "model_invalid",
        `weight_map in ${INDEX} must name a .safetensors file of the directory for tensor ${name}, got ${found}`,
      );
    }),
  );
}

function noWeights(directory: string): ModelError {
  const pickled = ["pytorch_model.bin", "pytorch_model.bin.index.json"].find((name) =>
    existsSync(join(directory, name)),
  );
  if (pickled !== undefined) {
    return new ModelError(
      "model_unsupported",
      `the model directory has ${pickled} and no ${SINGLE}; convert the weights to safetensors`,
    );
  }
  return new ModelError("model_invalid", `the model directory has neither ${SINGLE} nor ${INDEX}`);
}

function readingFile<T>(fileName: string, read: () => T): T {
  try {
    return read();
  } catch (cause) {
    throw fileError(fileName, cause);
  }
}

function fileError(fileName: string, cause: unknown): ModelError {
  if (cause instanceof ModelError) return cause;
  const fault =
    cause instanceof FormatError
      ? `is not usable: ${cause.message}`
      : errorName(cause) === "ENOENT"
        ? "is missing"
        : `cannot be read (${errorName(cause)})`;
  return new ModelError("model_invalid", `${fileName} ${fault}`, { cause });
}
