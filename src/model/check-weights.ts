/** Whether a checkpoint holds exactly what a program needs: every tensor, in its shape, and nothing else. */
import { ModelError } from "../core/errors.ts";
import { DTYPE_BYTES } from "../formats/safetensors.ts";
import type { Program } from "./program.ts";
import type { Checkpoint } from "./weights.ts";

const EMBEDDING = "model.embed_tokens.weight";
const HEAD = "lm_head.weight";
/** Tables that old releases saved and that follow from the configuration. */
const DERIVED = /(?:^|\.)rotary_emb\.(?:inv_freq|cos_cached|sin_cached)$/;
const COMPARE_BYTES = 4 << 20;

/** @throws {ModelError} `model_invalid` naming the first tensor that is missing, misshapen or unused */
export function checkWeights(program: Program, checkpoint: Checkpoint): void {
  const used = new Set<string>();
  for (const { kind, cols, parts } of program.weights) {
    for (const { tensor, rows, shape } of parts) {
      checkShape(checkpoint, tensor, shape ?? (kind === "vector" ? [rows] : [rows, cols]));
      used.add(tensor);
    }
  }
  const unused = [...checkpoint.tensorNames].filter(
    (name) => !used.has(name) && !DERIVED.test(name),
  );
  const strange = unused.filter((name) => name !== HEAD);
  if (strange.length > 0) {
    const others = strange.length > 1 ? ` and ${strange.length - 1} more` : "";
    throw new ModelError(
      "model_invalid",
      `the model's files hold tensor ${strange[0]}${others}, which config.json gives no use for; the two do not belong together`,
    );
  }
  // The only way to be unused here is a model with tied embeddings.
  if (unused.includes(HEAD)) checkTied(checkpoint);
}

function checkShape(checkpoint: Checkpoint, tensor: string, expected: readonly number[]): void {
  const shape = checkpoint.shape(tensor);
  if (shape === undefined) {
    const hint =
      tensor === HEAD
        ? "; if the model shares its embeddings, set tie_word_embeddings in config.json"
        : "";
    throw new ModelError(
      "model_invalid",
      `tensor ${tensor} of shape [${expected.join(", ")}] is missing from the model's files${hint}`,
    );
  }
  if (shape.length !== expected.length || shape.some((size, i) => size !== expected[i])) {
    throw new ModelError(
      "model_invalid",
      `tensor ${tensor} has shape [${shape.join(", ")}], but config.json asks for [${expected.join(", ")}]`,
    );
  }
}

/** A stored copy of a tied matrix is harmless; another matrix under its name is not. */
function checkTied(checkpoint: Checkpoint): void {
  const head = checkpoint.info(HEAD);
  const embedding = checkpoint.info(EMBEDDING);
  const rowBytes = head.cols * DTYPE_BYTES[head.dtype];
  let isEqual =
    head.dtype === embedding.dtype && head.rows === embedding.rows && head.cols === embedding.cols;
  const rowsPerRead = Math.max(1, Math.floor(COMPARE_BYTES / rowBytes));
  for (let row = 0; isEqual && row < head.rows; row += rowsPerRead) {
    const numRows = Math.min(rowsPerRead, head.rows - row);
    const [a, b] = [HEAD, EMBEDDING].map((tensor) => {
      const bytes = Buffer.alloc(numRows * rowBytes);
      checkpoint.readRows(tensor, row, numRows, bytes);
      return bytes;
    });
    isEqual = a!.equals(b!);
  }
  if (!isEqual) {
    throw new ModelError(
      "model_invalid",
      `tensor ${HEAD} differs from ${EMBEDDING}, but tie_word_embeddings in config.json is true; set it to false`,
    );
  }
}
