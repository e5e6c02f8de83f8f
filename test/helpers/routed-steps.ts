/** Steps of a mixture of experts on a CUDA device, a few launches at a time, so that what its routers chose can be read. */
import type { CudaBackend } from "../../src/backend/cuda/cuda-backend.ts";
import { LAUNCH, LAUNCH_OP, LAUNCH_WORDS } from "../../src/backend/cuda/layout.ts";
import { lowerProgram } from "../../src/backend/cuda/lower-program.ts";
import type { Step } from "../../src/core/step.ts";
import type { BufferId, Program } from "../../src/model/program.ts";

export interface RoutedStep {
  /** Of every sampled row. */
  readonly logits: readonly Float64Array[];
  /** Of every layer with experts and row of the step: numbers of experts, the one with the largest share first. */
  readonly experts: readonly (readonly number[])[][];
}

/** Kernels are those that the step would run. @param step with samples */
export async function runRouted(backend: CudaBackend, program: Program, step: Step): Promise<RoutedStep> {
  const { launches } = lowerProgram(program);
  const word = (launch: number, field: keyof typeof LAUNCH): number => launches[launch * LAUNCH_WORDS + LAUNCH[field]]!;
  const sampling = launches.length / LAUNCH_WORDS - 1;
  const { topK } = program.routing!;
  const experts: number[][][] = [];
  let first = 0;
  const runTo = async (end: number, output: BufferId): Promise<Float32Array> => {
    const { buffers } = await backend.runLaunches(step, first, end - first, [], [output]);
    first = end;
    return buffers[0]!;
  };
  for (let launch = 0; launch < sampling; launch++) {
    if (word(launch, "op") !== LAUNCH_OP.route) continue;
    const routes = await runTo(launch + 1, word(launch, "out"));
    experts.push(Array.from({ length: routes.length / (2 * topK) }, (_, row) => [...routes.subarray(row * 2 * topK, row * 2 * topK + topK)]));
  }
  // The sampler changes the logits that it reads.
  const logits = Float64Array.from(await runTo(sampling, word(sampling, "x")));
  const count = logits.length / program.vocabSize;
  return { experts, logits: Array.from({ length: count }, (_, i) => logits.subarray(i * program.vocabSize, (i + 1) * program.vocabSize)) };
}
