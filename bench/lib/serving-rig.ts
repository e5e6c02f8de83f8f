/** Models and devices that a serving bench runs over: weights and tokenizer made up, the real ones, or a device that only takes time. */
import { join } from "node:path";
import type { Backend, BackendOptions } from "../../src/backend/backend.ts";
import { cudaPageBytes, openCudaBackend } from "../../src/backend/cuda/cuda-backend.ts";
import { PAGE_TOKENS as CUDA_PAGE_TOKENS } from "../../src/backend/cuda/layout.ts";
import { PAGE_TOKENS as WASM_PAGE_TOKENS } from "../../src/backend/wasm/layout.ts";
import { kvPageBytes, openWasmBackend } from "../../src/backend/wasm/wasm-backend.ts";
import { buildDecoderProgram } from "../../src/model/decoder-program.ts";
import { type LoadedModel, loadModel } from "../../src/model/load-model.ts";
import { readModelConfig } from "../../src/model/model-config.ts";
import { layerSites } from "../../src/model/program.ts";
import { noWeights } from "./cuda-rig.ts";
import { PACED_PAGE_TOKENS, pacedBackend } from "./paced-backend.ts";
import { syntheticTokenizer } from "./synthetic-tokenizer.ts";

export const DEVICES = ["cuda", "wasm", "stand-in"] as const;
export type Device = (typeof DEVICES)[number];

/** Ids of byte tokens are below; text made of others is words. */
const FIRST_WORD = 300;

export interface OpenedModel {
  readonly model: LoadedModel;
  readonly config: unknown;
  readonly randomText: (tokens: number, random: () => number) => string;
}

export async function openModel(device: Device, directory: string): Promise<OpenedModel> {
  const config: unknown = JSON.parse(await Bun.file(join(directory, "config.json")).text());
  if (device === "wasm") {
    const model = await loadModel(directory);
    const { tokenizer } = model;
    const words = Array.from({ length: tokenizer!.vocabSize - FIRST_WORD }, (_, i) => FIRST_WORD + i);
    return { model, config, randomText: (tokens, random) => textOf(words, tokens, random, (ids) => tokenizer!.decode(ids)) };
  }
  const parsed = readModelConfig(directory);
  const { tokenizer, words } = syntheticTokenizer(parsed.vocabSize);
  const model: LoadedModel = {
    name: "random", directory, config: parsed, program: buildDecoderProgram(parsed), weights: noWeights, tokenizer, chatTemplate: null,
    generation: { eosTokenIds: [] },
  };
  return { model, config, randomText: (tokens, random) => textOf(words, tokens, random, (ids) => tokenizer.decode(ids)) };
}

const textOf = (words: readonly number[], tokens: number, random: () => number, decode: (ids: readonly number[]) => string): string =>
  decode(Array.from({ length: tokens }, () => words[Math.floor(random() * words.length)]!));

export interface ServingWish {
  readonly numStreams: number;
  readonly numAdapters: number;
  readonly rank: number;
  readonly stepMs: number;
}

export function openBackend(device: Device, model: LoadedModel, contextTokens: number, { numStreams, numAdapters, rank, stepMs }: ServingWish): Promise<Backend> {
  const { program } = model;
  const numbers = layerSites(program).reduce((sum, { inWidth, outWidth, modules }) => sum + rank * (inWidth * modules.filter(({ own }) => own).length + outWidth), 0);
  const pagesOf = (pageTokens: number): number => numStreams * Math.ceil(contextTokens / pageTokens);
  const options: Omit<BackendOptions, "numExtents" | "numPages"> = {
    program, weights: model.weights, format: "bfloat16", numThreads: navigator.hardwareConcurrency, maxRows: device === "wasm" ? 512 : 8192, maxSequences: numStreams, numSlots: numAdapters,
  };
  // True ranks up to the next eight, and some room for the records of each.
  const adapterBytes = 4 * numbers + (1 << 20);
  const sizes = (pageTokens: number, pageBytes: number): Pick<BackendOptions, "numExtents" | "numPages"> => ({
    numPages: pagesOf(pageTokens),
    numExtents: pagesOf(pageTokens) + numAdapters * Math.ceil(adapterBytes / pageBytes),
  });
  if (device === "cuda") return openCudaBackend({ ...options, ...sizes(CUDA_PAGE_TOKENS, cudaPageBytes(program)), randomSeed: 7 });
  if (device === "wasm") return openWasmBackend({ ...options, ...sizes(WASM_PAGE_TOKENS, kvPageBytes(program)) });
  return Promise.resolve(pacedBackend({ ...options, numPages: pagesOf(PACED_PAGE_TOKENS), stepMs, idles: true, vocabSize: program.vocabSize }));
}
