/** A runtime over the fake backend, with adapters that come from nowhere. */
import type { AdapterWeights } from "../../src/lora/adapter-weights.ts";
import type { LoadedModel } from "../../src/model/load-model.ts";
import type { Tokenizer } from "../../src/model/tokenizer.ts";
import type { GenerationEvent, GenerationRequest } from "../../src/core/request.ts";
import {
  createLocalRuntime,
  type LocalRuntime,
  type LocalRuntimeInput,
} from "../../src/runtime/local-runtime.ts";
import type { Generation } from "../../src/runtime/runtime.ts";
import { FakeBackend, type FakeBackendOptions } from "./fake-backend.ts";
import { samplingWith } from "./sampling.ts";

/** Only what the runtime looks at. */
export const fakeModel = (vocabSize: number, tokenizer: Tokenizer | null = null): LoadedModel =>
  ({
    name: "fake",
    program: { vocabSize, maxContext: 4096 },
    tokenizer,
    generation: { eosTokenIds: [] },
  }) as unknown as LoadedModel;

/** @param invocation token ids that it acts from */
export const weightsOf = (digest: string, numBytes: number, invocation?: readonly number[]): AdapterWeights => ({
  digest,
  deltas: [],
  report: {
    format: "peft",
    numModules: 1,
    modules: [{ name: "q_proj", numModules: 1, minRank: 8, maxRank: 8, minScale: 2, maxScale: 2 }],
    maxRank: 8,
    minRank: 8,
    scaleRule: "alpha/rank",
    dtypes: ["F32"],
    numBytes,
    ...(invocation === undefined ? {} : { invocation }),
    warnings: [],
  },
});

export interface Bench {
  readonly runtime: LocalRuntime;
  readonly backend: FakeBackend;
}

/** Adapters `a1` to `a9`, of 100 bytes each, are known. */
export function openBench(
  input: Partial<LocalRuntimeInput> = {},
  backendOptions: Partial<FakeBackendOptions> = {},
): Bench {
  const backend = new FakeBackend(backendOptions);
  const adapters = Array.from({ length: 9 }, (_, index) => ({
    name: `a${index + 1}`,
    path: `/adapters/a${index + 1}`,
  }));
  const runtime = createLocalRuntime({
    model: fakeModel(backendOptions.vocabSize ?? 1000),
    backend,
    readAdapter: ({ name }) => Promise.resolve(weightsOf(`digest of ${name}`, 100)),
    ...input,
    options: { adapters, ...input.options },
  });
  return { runtime, backend };
}

export const requestWith = (
  prompt: readonly number[],
  changes: Partial<GenerationRequest> & {
    readonly seed?: bigint;
    readonly maxTokens?: number;
  } = {},
): GenerationRequest => {
  const { seed = 0n, maxTokens = 8, ...rest } = changes;
  return {
    promptTokens: prompt,
    adapter: null,
    sampling: samplingWith({ seed, maxTokens }),
    tenant: "",
    timeoutMs: null,
    ...rest,
  };
};

export interface Collected {
  readonly text: string;
  readonly ids: readonly number[];
  readonly events: readonly GenerationEvent[];
  readonly finish: NonNullable<GenerationEvent["finish"]>;
}

export async function collect(generation: Generation): Promise<Collected> {
  const events = await Array.fromAsync(generation);
  const finishes = events.flatMap(({ finish }) => (finish === null ? [] : [finish]));
  if (finishes.length !== 1) throw new Error(`${finishes.length} finishes`);
  return {
    text: events.map(({ text }) => text).join(""),
    ids: events.flatMap(({ tokens }) => tokens.map(({ id }) => id)),
    events,
    finish: finishes[0]!,
  };
}
