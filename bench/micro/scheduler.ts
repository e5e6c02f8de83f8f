/**
 * What a step costs beside the model: scheduler, actors, engine and streams over a backend that does nothing.
 *
 *   bun bench/micro/scheduler.ts [--streams 32] [--json FILE]
 */
import type { Backend } from "../../src/backend/backend.ts";
import type { SampledToken } from "../../src/core/sampling.ts";
import { encodeStep, StepBlock } from "../../src/core/step-block.ts";
import type { Step, StepResult } from "../../src/core/step.ts";
import type { GenerationRequest } from "../../src/core/request.ts";
import { createLocalRuntime } from "../../src/runtime/local-runtime.ts";
import { fakeModel, weightsOf } from "../../test/helpers/runtime.ts";
import { samplingWith } from "../../test/helpers/sampling.ts";
import { integerIn, parseFlags } from "../lib/flags.ts";
import { Neighbours, printTable, type Spread, spreadOf, writeRecord } from "../lib/record.ts";

const flags = parseFlags({ streams: "32", json: undefined });
const numStreams = integerIn("streams", flags.streams, 1, 256);
const NUM_TOKENS = 2000;
const NUM_ROUNDS = 7;

/** Answers at once; encodes the step when asked to, as both backends do. */
class EmptyBackend implements Backend {
  readonly info = {
    name: "wasm",
    description: "nothing",
    pageTokens: 16,
    numExtents: 100_100,
    extentBytes: 10,
    numPages: 100_000,
    numSlots: 8,
    maxRows: 512,
    maxSequences: 256,
    weightBytes: 0,
  } as const;
  readonly #token: SampledToken = { id: 7, logprob: -1, rank: 1, top: [] };
  readonly #block = new StepBlock();
  readonly #encodes: boolean;

  constructor(encodes: boolean) {
    this.#encodes = encodes;
  }

  run(step: Step): Promise<StepResult> {
    if (this.#encodes) encodeStep(step, this.#block);
    const sampled: SampledToken[] = [];
    for (const { sample } of step.sequences) if (sample !== null) sampled.push({ ...this.#token });
    return Promise.resolve({ sampled, computeMs: 0 });
  }

  stage = () => Promise.resolve({ digest: "none", numBytes: 10 });
  attach = () => Promise.resolve();
  detach = () => {};
  close = () => Promise.resolve();
}

async function microsPerStep(
  encodes: boolean,
  numAdapters: number,
  penalised: boolean,
): Promise<number> {
  const runtime = createLocalRuntime({
    model: fakeModel(1000),
    backend: new EmptyBackend(encodes),
    readAdapter: () => Promise.resolve(weightsOf("none", 10)),
  });
  const adapters = Array.from({ length: numAdapters }, (_, i) =>
    runtime.registerAdapter(`a${i}`, `/a${i}`),
  );
  const sampling = samplingWith({
    maxTokens: NUM_TOKENS,
    ...(penalised ? { frequencyPenalty: 0.5, repetitionPenalty: 1.1 } : {}),
  });
  const request = (index: number): GenerationRequest => ({
    promptTokens: Array.from({ length: 64 }, (_, i) => i),
    adapter: adapters[index % numAdapters] ?? null,
    sampling,
    tenant: "",
    timeoutMs: null,
  });
  const started = performance.now();
  await Promise.all(
    Array.from({ length: numStreams }, async (_, index) => {
      for await (const event of runtime.generate(request(index))) {
        if (event.finish?.reason === "error") throw event.finish.error;
      }
    }),
  );
  const elapsedMs = performance.now() - started;
  const { steps } = runtime.stats();
  await runtime.close();
  return (elapsedMs / steps) * 1000;
}

const cases = [
  { name: "base model", encodes: false, numAdapters: 0, penalised: false },
  { name: "8 adapters", encodes: false, numAdapters: 8, penalised: false },
  { name: "8 adapters, step encoded", encodes: true, numAdapters: 8, penalised: false },
  { name: "8 adapters, penalties, step encoded", encodes: true, numAdapters: 8, penalised: true },
];
const neighbours = new Neighbours();
const microseconds: Record<string, Spread> = {};
for (const { name, encodes, numAdapters, penalised } of cases) {
  await microsPerStep(encodes, numAdapters, penalised);
  const samples: number[] = [];
  for (let i = 0; i < NUM_ROUNDS; i++)
    samples.push(await microsPerStep(encodes, numAdapters, penalised));
  microseconds[name] = spreadOf(samples);
}
printTable(
  [`µs per step of ${numStreams} streams`, "median", "min", "max"],
  Object.entries(microseconds).map(([name, { median, min, max }]) => [name, median.toFixed(1), min.toFixed(1), max.toFixed(1)]),
);
if (flags.json !== undefined) await writeRecord(flags.json, "micro/scheduler", { numStreams, microseconds }, neighbours.cores());
