/** Reading weights into a backend: which rows go where, and what becomes of a read or a number that is bad. */
import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { truncateSync } from "node:fs";
import { join } from "node:path";
import type { BackendOptions } from "../../src/backend/backend.ts";
import type { CudaAddon, CudaEngine } from "../../src/backend/cuda/addon.ts";
import { openCudaBackend } from "../../src/backend/cuda/cuda-backend.ts";
import { readWeights, weightPieces, type WeightProgress } from "../../src/backend/read-weights.ts";
import type { Program, WeightSpec } from "../../src/model/program.ts";
import type { WeightSource } from "../../src/model/weight-source.ts";
import { openCheckpoint } from "../../src/model/weights.ts";
import { encodeSafetensors, writeDirectory } from "../helpers/model-files.ts";
import { numbers, randomWeights, TINY, tinyProgram } from "../helpers/tiny-program.ts";

const turn = (): Promise<void> => new Promise((resolve) => void setImmediate(resolve));

/** An engine that takes its time over each piece, and watches its windows meanwhile. */
class StandInEngine {
  readonly rows = new Map<string, number[]>();
  readonly #random = numbers(3);
  #windows: Uint8Array[] = [];
  pending = 0;
  mostPending = 0;
  isClosed = false;
  isWarm = false;

  windows(count: number, numBytes: number): readonly Uint8Array[] {
    this.#windows = Array.from({ length: count }, () => new Uint8Array(numBytes));
    return this.#windows;
  }

  async loadRows(weight: number, firstRow: number, numRows: number, dtype: number, bytes: Uint8Array): Promise<number | null> {
    expect(this.isClosed).toBe(false);
    expect(this.#windows.some(({ buffer }) => buffer === bytes.buffer)).toBe(true);
    const before = bytes.slice();
    this.mostPending = Math.max(this.mostPending, ++this.pending);
    for (let i = (1 + this.#random()) * 2; i > 0; i--) await turn();
    this.pending--;
    expect(this.isClosed).toBe(false);
    expect(bytes).toEqual(before);
    expect(dtype).toBe(0);
    const values = new Float32Array(before.buffer);
    const cols = values.length / numRows;
    for (let row = 0; row < numRows; row++) {
      const own = [...values.subarray(row * cols, (row + 1) * cols)];
      if (!own.every(Number.isFinite)) return row;
      expect(this.rows.has(`${weight} ${firstRow + row}`)).toBe(false);
      this.rows.set(`${weight} ${firstRow + row}`, own);
    }
    return null;
  }

  loadRopeTable(): void {}

  async warmUp(): Promise<void> {
    this.isWarm = true;
  }

  stats(): ReturnType<CudaEngine["stats"]> {
    return { description: "a stand-in", graphSteps: 0, eagerSteps: 0, graphs: 0, weightBytes: 0, activationBytes: 0 };
  }

  close(): void {
    expect(this.pending).toBe(0);
    this.isClosed = true;
  }
}

const program = tinyProgram(TINY);
const LIMITS = { program, format: "bfloat16", numThreads: 1, maxRows: 8, maxSequences: 4, numExtents: 4, numPages: 4, numSlots: 0 } as const;

function open(weights: WeightSource, onWeights?: (progress: WeightProgress) => void) {
  const engine = new StandInEngine();
  const addon = { abiVersion: 0, Engine: function Engine() { return engine; } } as unknown as CudaAddon;
  const options: BackendOptions = { ...LIMITS, weights, onWeights };
  return { engine, opening: openCudaBackend(options, addon) };
}

/** A checkpoint of two files with the tiny program's tensors. */
function checkpoint(poisoned?: string): { readonly directory: string; readonly weights: WeightSource } {
  const source = randomWeights(program, 1);
  const names = program.weights.flatMap(({ parts }) => parts.map(({ tensor }) => tensor));
  const shardOf = (index: number): string => `m-${1 + (index % 2)}.safetensors`;
  const tensors = names.map((name, index) => {
    const { rows, cols } = source.info(name);
    const bytes = new Uint8Array(rows * cols * 4);
    source.readRows(name, 0, rows, bytes);
    if (name === poisoned) new Float32Array(bytes.buffer)[cols * (rows - 1)] = Number.NaN;
    return { name, shard: shardOf(index), spec: { shape: cols === 1 ? [rows] : [rows, cols], bytes } };
  });
  const ofShard = (shard: string) => encodeSafetensors(Object.fromEntries(tensors.filter((each) => each.shard === shard).map(({ name, spec }) => [name, spec])));
  const directory = writeDirectory({
    "model.safetensors.index.json": JSON.stringify({ weight_map: Object.fromEntries(tensors.map(({ name, shard }) => [name, shard])) }),
    "m-1.safetensors": ofShard("m-1.safetensors"),
    "m-2.safetensors": ofShard("m-2.safetensors"),
  });
  return { directory, weights: openCheckpoint(directory) };
}

describe("a device's weights", () => {
  test("are every row of every file, several pieces at once, none touched before the device has it", async () => {
    const { weights } = checkpoint();
    const told: WeightProgress[] = [];
    const { engine, opening } = open(weights, (progress) => told.push(progress));
    await opening;
    expect(engine.mostPending).toBeGreaterThan(1);
    expect(engine.isWarm).toBe(true);
    let numRows = 0;
    program.weights.forEach(({ parts, rows, cols }, weight) => {
      numRows += rows;
      expect(parts).toHaveLength(1);
      for (let row = 0; row < rows; row++) {
        const bytes = new Uint8Array(cols * 4);
        weights.readRows(parts[0]!.tensor, row, 1, bytes);
        expect(engine.rows.get(`${weight} ${row}`)).toEqual([...new Float32Array(bytes.buffer)]);
      }
    });
    expect(engine.rows.size).toBe(numRows);
    const totalBytes = program.weights.reduce((sum, { rows, cols }) => sum + rows * cols * 4, 0);
    expect(told.at(-1)).toEqual({ numBytes: totalBytes, totalBytes });
    expect(told.every(({ numBytes }, i) => i === 0 || numBytes > told[i - 1]!.numBytes)).toBe(true);
  });

  test("are refused with tensor, file and row where a number is not finite, once nothing is under way", async () => {
    const name = "layers.0.gateUp";
    const { engine, opening } = open(checkpoint(name).weights);
    await expect(opening).rejects.toMatchObject({
      errorCode: "model_invalid",
      message: expect.stringMatching(new RegExp(`^tensor ${name} of m-[12]\\.safetensors has a value that is not finite in row 79; the checkpoint is damaged$`)),
    });
    expect([engine.isClosed, engine.isWarm, engine.pending]).toEqual([true, false, 0]);
  });

  test("are refused by the name of a file that was cut after it was opened", async () => {
    const { directory, weights } = checkpoint();
    truncateSync(join(directory, "m-2.safetensors"), 2000);
    const { engine, opening } = open(weights);
    await expect(opening).rejects.toMatchObject({ errorCode: "model_invalid", message: "m-2.safetensors is not usable: the file was changed while it was read" });
    expect(engine.isClosed).toBe(true);
  });
});

const weight = (rows: number, cols: number, numExperts: number, split: number): WeightSpec => {
  const total = rows * numExperts;
  const first = Math.min(split, total);
  const parts = [first, total - first].filter((count) => count > 0).map((count, i) => ({ tensor: `${rows}x${cols}.${i}`, rows: count }));
  return { name: "w", kind: "matrix", rows, cols, numExperts, parts };
};

const sourceOf = (weights: readonly WeightSpec[]): WeightSource => ({
  info: (tensor) => {
    const owner = weights.find(({ parts }) => parts.some((part) => part.tensor === tensor))!;
    return { dtype: "BF16", rows: owner.parts.find((part) => part.tensor === tensor)!.rows, cols: owner.cols };
  },
  readRows: () => undefined,
});

test("pieces hold every row once, in order, and none crosses a window, a tensor or a matrix", () => {
  const size = fc.integer({ min: 1, max: 40 });
  fc.assert(
    fc.property(fc.uniqueArray(fc.tuple(size, size, fc.integer({ min: 1, max: 4 }), size), { minLength: 1, maxLength: 5, selector: ([rows, cols]) => `${rows}x${cols}` }), fc.integer({ min: 80, max: 400 }), (shapes, windowBytes) => {
      const weights = shapes.map((shape) => weight(...shape));
      const pieces = weightPieces({ weights } as unknown as Program, sourceOf(weights), windowBytes);
      weights.forEach(({ rows, cols, numExperts = 1, parts }, id) => {
        const own = pieces.filter((piece) => piece.weight === id);
        const cells = own.flatMap(({ tensor, tensorRow, row, numRows }) => Array.from({ length: numRows }, (_, i) => `${tensor} ${tensorRow + i} ${row + i}`));
        let row = 0;
        expect(cells).toEqual(parts.flatMap(({ tensor, rows: count }) => Array.from({ length: count }, (_, i) => `${tensor} ${i} ${row++}`)));
        expect(row).toBe(rows * numExperts);
        for (const piece of own) {
          expect(piece.numBytes).toBe(piece.numRows * cols * 2);
          expect(piece.numBytes).toBeLessThanOrEqual(windowBytes);
          expect(Math.floor(piece.row / rows)).toBe(Math.floor((piece.row + piece.numRows - 1) / rows));
        }
      });
    }),
  );
});

test("of several pieces that fail, the earliest is told", async () => {
  const weights = [weight(16, 4, 1, 16)];
  const failing = readWeights({
    program: { weights } as unknown as Program,
    source: sourceOf(weights),
    windows: Array.from({ length: 4 }, () => new Uint8Array(8)),
    // Later pieces fail sooner.
    place: async ({ row }) => {
      for (let i = 0; i < 8 - row; i++) await turn();
      return row >= 2 ? 0 : null;
    },
  });
  await expect(failing).rejects.toThrow("tensor 16x4.0 has a value that is not finite in row 2;");
});
