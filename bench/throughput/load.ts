/**
 * How fast a checkpoint is read: from the files into windows, and on a device out of them again.
 *
 *   bun bench/throughput/load.ts [--device none|cuda] [--gigabytes 4] [--dir DIR] [--json FILE]
 *
 * The model has the shape of Llama-3.1-8B with as many layers as make the size, in four files of random numbers. Each
 * case reads it whole, with files in the system's cache and, where this process may empty that (root on Linux), without.
 * Without a device pieces are only looked at, so that the figure is that of the files and the threads.
 */
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openCudaBackend } from "../../src/backend/cuda/cuda-backend.ts";
import { largestRowBytes, readWeights, type WeightProgress } from "../../src/backend/read-weights.ts";
import { openModel } from "../../src/model/load-model.ts";
import { buildDecoderProgram } from "../../src/model/decoder-program.ts";
import { parseModelConfig } from "../../src/model/model-config.ts";
import shape from "../shapes/llama-3.1-8b/config.json";
import { integerIn, oneOf, parseFlags } from "../lib/flags.ts";
import { type NamedTensor, randomBfloat16, randomSource, writeSafetensors } from "../lib/random-model.ts";
import { printTable, type Spread, spreadOf, writeRecord } from "../lib/record.ts";

const REPEATS = 5;
const SHARDS = 4;
const WINDOW_BYTES = 16 << 20;

const flags = parseFlags({ device: "none", gigabytes: "4", dir: tmpdir(), json: undefined });
const device = oneOf("device", flags.device, ["none", "cuda"]);
const gigabytes = integerIn("gigabytes", flags.gigabytes, 1, 1000);

const directory = join(flags.dir, `lorikeet-load-${process.pid}`);
mkdirSync(directory);
process.on("exit", () => rmSync(directory, { recursive: true, force: true }));

const sized = (numLayers: number) => ({ ...shape, num_hidden_layers: numLayers });
const programOf = (numLayers: number) => buildDecoderProgram(parseModelConfig(sized(numLayers)));
const bytesOf = (numLayers: number): number => programOf(numLayers).weights.reduce((sum, { rows, cols }) => sum + rows * cols * 2, 0);
const layerBytes = bytesOf(2) - bytesOf(1);
const numLayers = Math.max(1, 1 + Math.ceil((gigabytes * 1e9 - bytesOf(1)) / layerBytes));
await writeModel();
const { program, weights } = openModel(directory);
const totalBytes = bytesOf(numLayers);

/** Numbers are runs of one pool, so that making them does not take longer than reading them. */
async function writeModel(): Promise<void> {
  const pool = randomBfloat16(8 << 20, 0.02, randomSource(5));
  const shards: NamedTensor[][] = Array.from({ length: SHARDS }, () => []);
  const parts = programOf(numLayers).weights.flatMap(({ cols, kind, parts: own }) => own.map(({ tensor, rows }) => ({ tensor, rows, cols, isVector: kind === "vector" })));
  for (const [i, { tensor, rows, cols, isVector }] of parts.entries()) {
    const data = new Uint16Array(rows * cols);
    for (let at = 0; at < data.length; at += pool.length) data.set(pool.subarray(0, Math.min(pool.length, data.length - at)), at);
    shards[Math.floor((i * SHARDS) / parts.length)]!.push({ name: tensor, shape: isVector ? [rows] : [rows, cols], data });
  }
  const map: Record<string, string> = {};
  for (const [i, tensors] of shards.entries()) {
    const file = `model-${i + 1}.safetensors`;
    await writeSafetensors(join(directory, file), tensors);
    for (const { name } of tensors) map[name] = file;
    tensors.length = 0;
  }
  writeFileSync(join(directory, "model.safetensors.index.json"), JSON.stringify({ weight_map: map }));
  writeFileSync(join(directory, "config.json"), JSON.stringify(sized(numLayers)));
}

/** @returns whether files are read from the disk from here on */
function forgetFiles(): boolean {
  Bun.spawnSync(["sync"]);
  try {
    writeFileSync("/proc/sys/vm/drop_caches", "3");
    return true;
  } catch {
    return false;
  }
}

async function windowsOf(count: number): Promise<number> {
  const windows = Array.from({ length: count }, () => new Uint8Array(Math.max(WINDOW_BYTES, largestRowBytes(program))).fill(1));
  const startMs = performance.now();
  await readWeights({ program, source: weights, windows, place: () => null });
  return performance.now() - startMs;
}

/** From the first piece on the device to the last. */
async function onDevice(): Promise<number> {
  const told: (WeightProgress & { readonly atMs: number })[] = [];
  const backend = await openCudaBackend({
    program, weights, format: "bfloat16", numThreads: 1, maxRows: 64, maxSequences: 1, numExtents: 4, numPages: 4, numSlots: 0,
    onWeights: (progress) => told.push({ ...progress, atMs: performance.now() }),
  });
  await backend.close();
  const [first, last] = [told[0]!, told.at(-1)!];
  return ((last.atMs - first.atMs) * totalBytes) / (last.numBytes - first.numBytes);
}

const cases: readonly (readonly [string, () => Promise<number>])[] =
  device === "cuda" ? [["to the device", onDevice]] : [1, 2, 4, 8].map((count) => [`${count} windows`, () => windowsOf(count)] as const);
const figures: Record<string, Spread> = {};
await cases[0]![1]();
for (const isCold of [false, true]) {
  if (isCold && !forgetFiles()) continue;
  for (const [name, run] of cases) {
    const rates: number[] = [];
    for (let i = 0; i < (isCold ? 1 : REPEATS); i++) {
      if (isCold) forgetFiles();
      rates.push(totalBytes / 1e6 / (await run()));
    }
    figures[`${name}, ${isCold ? "from the disk" : "from the system's cache"}`] = spreadOf(rates);
  }
}
console.log(`${(totalBytes / 1e9).toFixed(1)} GB in ${SHARDS} files, GB/s`);
printTable(["case", "median", "min", "max"], Object.entries(figures).map(([name, { median, min, max }]) => [name, ...[median, min, max].map((rate) => rate.toFixed(2))]));
if (flags.json !== undefined) await writeRecord(flags.json, "throughput/load", { device, totalBytes, shards: SHARDS, windowBytes: WINDOW_BYTES, gigabytesPerSecond: figures });
process.exit(0);
