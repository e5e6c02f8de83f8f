/**
 * The forward program in plain float64 loops: what both backends are compared with.
 *
 * It computes one sequence from its first token, without pages, batches or chunks.
 */
import type { AdapterMatrix, AdapterWeights, LoraDelta, Replacement } from "../../src/lora/adapter-weights.ts";
import type { Operation, Program, SiteId, WeightSpec } from "../../src/model/program.ts";
import type { WeightSource } from "../../src/model/weight-source.ts";

export function decodeNumbers(bytes: Uint8Array, dtype: "F32" | "F16" | "BF16"): Float64Array {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const size = dtype === "F32" ? 4 : 2;
  const bits = new DataView(new ArrayBuffer(4));
  return Float64Array.from({ length: bytes.byteLength / size }, (_, i) => {
    if (dtype === "F32") return view.getFloat32(i * 4, true);
    if (dtype === "F16") return view.getFloat16(i * 2, true);
    bits.setUint32(0, view.getUint16(i * 2, true) << 16);
    return bits.getFloat32(0);
  });
}

const matrixNumbers = (matrix: AdapterMatrix): Float64Array => decodeNumbers(matrix.bytes, matrix.dtype);

export function readWeight(source: WeightSource, weight: WeightSpec): Float64Array {
  const parts = weight.parts.map(({ tensor, rows }) => {
    const { dtype, cols } = source.info(tensor);
    const bytes = new Uint8Array(rows * cols * (dtype === "F32" ? 4 : 2));
    source.readRows(tensor, 0, rows, bytes);
    return decodeNumbers(bytes, dtype);
  });
  return Float64Array.from(parts.flatMap((part) => Array.from(part)));
}

/** Every number to the nearest bfloat16, ties to even, in place. */
export function roundToBfloat16(values: Float64Array): Float64Array {
  const bits = new Uint32Array(1);
  const float = new Float32Array(bits.buffer);
  for (let i = 0; i < values.length; i++) {
    float[0] = values[i]!;
    bits[0] = (bits[0]! + 0x7fff + ((bits[0]! >>> 16) & 1)) & 0xffff0000;
    values[i] = float[0];
  }
  return values;
}

/**
 * Gives a row its experts, the one with the largest share first; `undefined` for those of the largest logits.
 *
 * @param layer counts routers from 0
 */
export type ChooseExperts = (layer: number, row: number, logits: readonly number[]) => readonly number[] | undefined;

export class ReferenceExecutor {
  readonly #program: Program;
  readonly #weights: readonly Float64Array[];
  /** What is stored of an activation or a matrix. */
  readonly #stored: (values: Float64Array) => Float64Array;

  /**
   * @param precision `bfloat16` rounds where a device with bfloat16 matrices and activations does: everything but sums,
   * vectors, the residual stream and the logits
   */
  constructor(program: Program, source: WeightSource, precision: "float64" | "bfloat16" = "float64") {
    this.#program = program;
    this.#stored = precision === "bfloat16" ? roundToBfloat16 : (values) => values;
    this.#weights = program.weights.map((weight) => {
      const numbers = readWeight(source, weight);
      return weight.kind === "matrix" ? this.#stored(numbers) : numbers;
    });
  }

  /**
   * @param activeFrom first position that the adapter computes
   * @param choose decides in the routers' place: where two experts are as good as each other, rounding may take either
   * @returns the logits after the last token, `[vocabSize]`
   */
  logits(tokens: readonly number[], adapter: AdapterWeights | null = null, activeFrom = 0, choose: ChooseExperts = () => undefined): Float64Array {
    const program = this.#program;
    const rows = tokens.length;
    const buffers = program.buffers.map((spec) => new Float64Array({ step: rows, sampled: 1, routed: rows * (program.routing?.topK ?? 1) }[spec.rows] * spec.width));
    this.runOperations(program.operations, tokens, buffers, adapter, activeFrom, choose);
    const last = program.operations.at(-1)!;
    if (last.kind !== "sample") throw new Error("a program ends with sample");
    return buffers[last.logits]!;
  }

  /** Runs some operations on `buffers`, `[rows, width]` each in the program's order, in place. */
  runOperations(
    operations: readonly Operation[],
    tokens: readonly number[],
    buffers: readonly Float64Array[],
    adapter: AdapterWeights | null = null,
    activeFrom = 0,
    choose: ChooseExperts = () => undefined,
  ): void {
    let layer = 0;
    for (const operation of operations) {
      const chooseHere = (row: number, logits: readonly number[]) => choose(layer, row, logits);
      this.#run(operation, tokens, buffers, adapter, activeFrom, chooseHere);
      if (operation.kind === "route") layer++;
    }
  }

  /** A weight with the rows that the adapter has of its own; rows one by one are over any others. Those of a router are stored as it is. */
  #own(base: Float64Array, part: Replacement["part"], site: SiteId | null, adapter: AdapterWeights | null, kind: WeightSpec["kind"] = "matrix"): Float64Array {
    const own = adapter?.replacements?.filter((each) => each.site === site && each.part === part) ?? [];
    if (own.length === 0) return base;
    const numbers = base.slice();
    for (const { rows, values } of own.toSorted((one) => (typeof one.rows === "number" ? -1 : 1))) {
      const replaced = values.cols === 1 || kind === "exact" ? matrixNumbers(values) : this.#stored(matrixNumbers(values));
      for (let i = 0; i < values.rows; i++) {
        numbers.set(replaced.subarray(i * values.cols, (i + 1) * values.cols), (typeof rows === "number" ? rows + i : rows[i]!) * values.cols);
      }
    }
    return numbers;
  }

  #run(
    operation: Operation,
    tokens: readonly number[],
    buffers: readonly Float64Array[],
    adapter: AdapterWeights | null,
    activeFrom: number,
    choose: (row: number, logits: readonly number[]) => readonly number[] | undefined,
  ): void {
    const { buffers: specs, attention, rope } = this.#program;
    const { numHeads, numKvHeads, headDim } = attention;
    const rows = tokens.length;
    const width = (id: number): number => specs[id]!.width;
    switch (operation.kind) {
      case "embed": {
        const n = width(operation.out);
        const own = this.#own(this.#weights[operation.weight]!, "weight", operation.site, adapter);
        tokens.forEach((token, row) => buffers[operation.out]!.set(own.subarray(token * n, (token + 1) * n), row * n));
        for (const delta of adapter?.deltas.filter(({ site }) => site === operation.site) ?? []) {
          addToEmbedding({ ...delta, a: this.#stored(matrixNumbers(delta.a)), b: this.#stored(matrixNumbers(delta.b)) }, own, tokens, buffers[operation.out]!);
        }
        return;
      }
      case "rmsNorm": {
        const n = width(operation.x);
        const x = buffers[operation.x]!;
        const own = this.#own(this.#weights[operation.weight]!, "weight", operation.site, adapter);
        for (let at = 0; at < x.length; at += n) {
          buffers[operation.out]!.set(this.#stored(normalised(x.subarray(at, at + n), own, operation.eps)), at);
        }
        return;
      }
      case "headNorm": {
        const x = buffers[operation.x]!;
        const own = this.#own(this.#weights[operation.weight]!, "weight", operation.site, adapter);
        for (let row = 0; row < rows; row++) {
          for (let head = 0; head < operation.numHeads; head++) {
            const at = row * width(operation.x) + operation.offset + head * headDim;
            x.set(normalised(x.subarray(at, at + headDim), own, operation.eps), at);
          }
        }
        return;
      }
      case "linear": {
        const spec = this.#program.weights[operation.weight]!;
        const x = buffers[operation.x]!;
        const out = buffers[operation.out]!;
        const matrix = this.#own(this.#weights[operation.weight]!, "weight", operation.site, adapter, spec.kind);
        const bias = operation.bias === null ? null : this.#own(this.#weights[operation.bias]!, "bias", operation.site, adapter);
        const deltas = (adapter?.deltas ?? [])
          .filter((delta) => delta.site === operation.site)
          .map((delta) => ({ ...delta, a: this.#stored(matrixNumbers(delta.a)), b: this.#stored(matrixNumbers(delta.b)) }));
        const gained = deltas
          .filter(({ magnitude }) => magnitude !== undefined)
          .map((delta) => ({ delta, gains: doraGains(matrix, spec.cols, delta) }));
        const isFloat = spec.kind === "exact" || operation.accumulate || this.#program.operations.some((other) => other.kind === "sample" && other.logits === operation.out);
        for (let row = 0; row < x.length / spec.cols; row++) {
          const input = x.subarray(row * spec.cols, (row + 1) * spec.cols);
          const y = product(matrix, input, spec.rows);
          if (!isFloat) this.#stored(y);
          if (bias !== null) y.forEach((value, i) => (y[i] = value + bias[i]!));
          // One row of logits, that of the last token, or one for each of the step; those of experts are not activated.
          const position = x.length === spec.cols ? tokens.length - 1 : row;
          const acting = position < activeFrom ? [] : deltas;
          const changed = new Float64Array(acting.length === 0 ? 0 : spec.rows);
          for (const delta of acting) {
            const expanded = product(delta.b, product(delta.a, input, delta.rank), delta.width);
            expanded.forEach((value, i) => (changed[delta.offset + i]! += delta.scale * (value + (delta.bias?.[i] ?? 0))));
          }
          if (spec.kind !== "exact") this.#stored(changed);
          changed.forEach((value, i) => (y[i]! += value));
          for (const { delta, gains } of gained) {
            gains.forEach((gain, i) => {
              const at = delta.offset + i;
              const aside = bias?.[at] ?? 0;
              y[at] = aside + gain * (y[at]! - aside);
            });
          }
          for (let i = 0; i < spec.rows; i++) {
            const at = row * width(operation.out) + i;
            out[at] = (operation.accumulate ? out[at]! : 0) + y[i]!;
          }
        }
        return;
      }
      case "ropeKvWrite": {
        const qkv = buffers[operation.qkv]!;
        const w = width(operation.qkv);
        for (let row = 0; row < rows; row++) {
          for (let head = 0; head < numHeads + numKvHeads; head++) {
            const at = row * w + head * headDim;
            rotate(qkv.subarray(at, at + headDim), row, rope.inverseFrequencies, rope.attentionScaling);
          }
        }
        this.#stored(qkv);
        return;
      }
      case "attention": {
        const qkv = buffers[operation.qkv]!;
        const w = width(operation.qkv);
        const out = buffers[operation.out]!;
        for (let row = 0; row < rows; row++) {
          const first = operation.window === null ? 0 : Math.max(0, row + 1 - operation.window);
          for (let head = 0; head < numHeads; head++) {
            const kv = Math.floor(head / (numHeads / numKvHeads));
            const q = qkv.subarray(row * w + head * headDim, row * w + (head + 1) * headDim);
            const scores: number[] = [];
            for (let t = first; t <= row; t++) {
              const k = t * w + (numHeads + kv) * headDim;
              let dot = 0;
              for (let d = 0; d < headDim; d++) dot += q[d]! * qkv[k + d]!;
              scores.push(dot * attention.scale);
            }
            const max = Math.max(...scores);
            const weights = scores.map((score) => Math.exp(score - max));
            const sum = weights.reduce((a, b) => a + b, 0);
            for (let d = 0; d < headDim; d++) {
              let value = 0;
              weights.forEach((weight, i) => {
                value += weight * qkv[(first + i) * w + (numHeads + numKvHeads + kv) * headDim + d]!;
              });
              out[row * width(operation.out) + head * headDim + d] = value / sum;
            }
          }
        }
        this.#stored(out);
        return;
      }
      case "route": {
        const n = width(operation.logits);
        const topK = width(operation.out) / 2;
        for (let row = 0; row < rows; row++) {
          const logits = Array.from(buffers[operation.logits]!.subarray(row * n, (row + 1) * n));
          const best = logits.map((logit, expert) => ({ logit, expert })).toSorted((a, b) => b.logit - a.logit || a.expert - b.expert).slice(0, topK);
          const chosen = choose(row, logits)?.map((expert) => ({ logit: logits[expert]!, expert })) ?? best;
          const sum = (list: readonly number[]): number => list.reduce((total, logit) => total + Math.exp(logit - chosen[0]!.logit), 0);
          const whole = sum(operation.normalize ? chosen.map(({ logit }) => logit) : logits);
          chosen.forEach(({ logit, expert }, j) => {
            buffers[operation.out]![row * 2 * topK + j] = expert;
            buffers[operation.out]![row * 2 * topK + topK + j] = Math.exp(logit - chosen[0]!.logit) / whole;
          });
        }
        return;
      }
      case "expertLinear": {
        const { rows: n, cols } = this.#program.weights[operation.weight]!;
        const topK = width(operation.routes) / 2;
        const isStep = specs[operation.x]!.rows === "step";
        const used = new Map<number, ReturnType<typeof expertOf>>();
        const expertOf = (expert: number) => {
          const matrix = this.#own(this.#weights[operation.weight]!.subarray(expert * n * cols, (expert + 1) * n * cols), "weight", operation.site + expert, adapter);
          const deltas = (adapter?.deltas ?? [])
            .filter(({ site }) => site === operation.site + expert)
            .map((delta) => ({ ...delta, a: this.#stored(matrixNumbers(delta.a)), b: this.#stored(matrixNumbers(delta.b)) }));
          return { matrix, deltas: deltas.map((delta) => ({ ...delta, gains: delta.magnitude === undefined ? null : doraGains(matrix, cols, delta) })) };
        };
        for (let row = 0; row < rows; row++) {
          for (let j = 0; j < topK; j++) {
            const expert = buffers[operation.routes]![row * 2 * topK + j]!;
            const from = (isStep ? row : row * topK + j) * cols;
            const input = buffers[operation.x]!.subarray(from, from + cols);
            const { matrix, deltas } = used.getOrInsertComputed(expert, expertOf);
            const y = this.#stored(product(matrix, input, n));
            for (const delta of deltas) {
              product(delta.b, product(delta.a, input, delta.rank), delta.width).forEach((value, i) => {
                y[delta.offset + i]! += delta.scale * (value + (delta.bias?.[i] ?? 0));
              });
            }
            this.#stored(y);
            for (const { offset, gains } of deltas) {
              gains?.forEach((gain, i) => {
                y[offset + i]! *= gain;
              });
            }
            this.#stored(y);
            buffers[operation.out]!.set(y, (row * topK + j) * n);
          }
        }
        return;
      }
      case "combine": {
        const n = width(operation.out);
        const topK = width(operation.routes) / 2;
        for (let row = 0; row < rows; row++) {
          for (let j = 0; j < topK; j++) {
            const share = buffers[operation.routes]![row * 2 * topK + topK + j]!;
            for (let i = 0; i < n; i++) buffers[operation.out]![row * n + i]! += share * buffers[operation.x]![(row * topK + j) * n + i]!;
          }
        }
        return;
      }
      case "siluMul": {
        const n = width(operation.out);
        const x = buffers[operation.x]!;
        for (let row = 0; row < x.length / (2 * n); row++) {
          for (let i = 0; i < n; i++) {
            const gate = x[row * 2 * n + i]!;
            buffers[operation.out]![row * n + i] = (gate / (1 + Math.exp(-gate))) * x[row * 2 * n + n + i]!;
          }
        }
        this.#stored(buffers[operation.out]!);
        return;
      }
      case "gather": {
        const n = width(operation.x);
        buffers[operation.out]!.set(buffers[operation.x]!.subarray((rows - 1) * n, rows * n));
        return;
      }
      case "sample":
        return;
    }
  }
}

function product(matrix: Float64Array, x: Float64Array, rows: number): Float64Array {
  const cols = x.length;
  const y = new Float64Array(rows);
  for (let row = 0; row < rows; row++) {
    let sum = 0;
    for (let i = 0; i < cols; i++) sum += matrix[row * cols + i]! * x[i]!;
    y[row] = sum;
  }
  return y;
}

type NumberedDelta = Omit<LoraDelta, "a" | "b"> & { readonly a: Float64Array; readonly b: Float64Array };

/** The input is a one at each token; what DoRA gives a length are columns of the matrix. */
function addToEmbedding({ a: columns, b: rows, rank, width: n, scale, magnitude }: NumberedDelta, matrix: Float64Array, tokens: readonly number[], out: Float64Array): void {
  const numTokens = columns.length / rank;
  const changed = (token: number): Float64Array =>
    product(rows, Float64Array.from({ length: rank }, (_, r) => columns[r * numTokens + token]!), n).map((value, i) => matrix[token * n + i]! + scale * value);
  const squares = new Float64Array(n);
  if (magnitude !== undefined) for (let token = 0; token < numTokens; token++) changed(token).forEach((value, i) => (squares[i]! += value * value));
  tokens.forEach((token, row) => out.set(changed(token).map((value, i) => (magnitude === undefined ? value : (value * magnitude[i]!) / Math.sqrt(squares[i]!))), row * n));
}

/** By the definition: the length of each row of the changed matrix, made whole first. */
function doraGains(
  base: Float64Array,
  cols: number,
  { a, b, rank, width, offset, scale, magnitude }: NumberedDelta,
): Float64Array {
  return Float64Array.from({ length: width }, (_, row) => {
    let squares = 0;
    for (let col = 0; col < cols; col++) {
      let value = base[(offset + row) * cols + col]!;
      for (let r = 0; r < rank; r++) value += scale * b[row * rank + r]! * a[r * cols + col]!;
      squares += value * value;
    }
    return magnitude![row]! / Math.sqrt(squares);
  });
}

function normalised(x: Float64Array, weight: Float64Array, eps: number): Float64Array {
  let squares = 0;
  for (const value of x) squares += value * value;
  const factor = 1 / Math.sqrt(squares / x.length + eps);
  return x.map((value, i) => value * factor * weight[i]!);
}

function rotate(head: Float64Array, position: number, frequencies: readonly number[], scaling: number): void {
  const half = frequencies.length;
  frequencies.forEach((frequency, i) => {
    const cos = Math.cos(position * frequency) * scaling;
    const sin = Math.sin(position * frequency) * scaling;
    const a = head[i]!;
    const b = head[i + half]!;
    head[i] = a * cos - b * sin;
    head[i + half] = b * cos + a * sin;
  });
}

export function logSoftmax(logits: Float64Array): Float64Array {
  const max = logits.reduce((a, b) => Math.max(a, b));
  const sum = logits.reduce((total, value) => total + Math.exp(value - max), 0);
  return logits.map((value) => value - max - Math.log(sum));
}
