/** A forward program with addresses in place of names: the words that the C interpreter runs. */
import type { BufferId, Operation, Program, WeightId } from "../../model/program.ts";
import { formatOf } from "./formats.ts";
import { OPCODE, OPERATION, OPERATION_WORDS, PAGE_TOKENS } from "./layout.ts";

export interface Addresses {
  readonly buffers: readonly number[];
  readonly weights: readonly number[];
  /** Bytes of each matrix of a weight. */
  readonly matrixBytes: readonly number[];
  /** Format number of matrices. */
  readonly format: number;
}

export const paddedHeadDim = (program: Program): number => Math.ceil(program.attention.headDim / 8) * 8;

/** Bytes of one page's part that belongs to one layer. */
export const layerPageBytes = (program: Program): number =>
  program.attention.numKvHeads * 2 * PAGE_TOKENS * paddedHeadDim(program) * 4;

const floatBits = (value: number): number => new Uint32Array(Float32Array.of(value).buffer)[0]!;

export function compileProgram(program: Program, addresses: Addresses): Uint32Array {
  const words = new Uint32Array(program.operations.length * OPERATION_WORDS);
  program.operations.forEach((operation, i) => {
    const fields = encode(operation, program, addresses);
    for (const [field, value] of Object.entries(fields)) {
      words[i * OPERATION_WORDS + OPERATION[field as keyof typeof OPERATION]] = value;
    }
  });
  return words;
}

type Fields = Partial<Record<keyof typeof OPERATION, number>>;

function encode(operation: Operation, program: Program, { buffers, weights, matrixBytes, format }: Addresses): Fields {
  const input = (id: BufferId): Fields => ({
    x: buffers[id]!,
    xStride: program.buffers[id]!.width,
    sampledRows: program.buffers[id]!.rows === "sampled" ? 1 : 0,
    routedRows: program.buffers[id]!.rows === "routed" ? 1 : 0,
  });
  const output = (id: BufferId): Fields => ({ out: buffers[id]!, outStride: program.buffers[id]!.width });
  const weight = (id: WeightId): number => weights[id]!;
  const { numHeads, numKvHeads, headDim } = program.attention;
  const layerOffset = (layer: number): number => layer * layerPageBytes(program);

  switch (operation.kind) {
    case "embed":
      return {
        opcode: OPCODE.embed,
        weight: weight(operation.weight),
        site: (operation.site ?? -1) >>> 0,
        format,
        n: program.weights[operation.weight]!.rows,
        k: program.weights[operation.weight]!.cols,
        ...output(operation.out),
      };
    case "rmsNorm":
      return {
        opcode: OPCODE.rmsNorm,
        weight: weight(operation.weight),
        site: (operation.site ?? -1) >>> 0,
        n: program.buffers[operation.x]!.width,
        eps: floatBits(operation.eps),
        ...input(operation.x),
        ...output(operation.out),
      };
    case "linear":
      return {
        opcode: OPCODE.linear,
        weight: weight(operation.weight),
        format: formatOf(program.weights[operation.weight]!, format),
        n: program.weights[operation.weight]!.rows,
        k: program.weights[operation.weight]!.cols,
        bias: operation.bias === null ? 0 : weight(operation.bias),
        accumulate: operation.accumulate ? 1 : 0,
        site: (operation.site ?? -1) >>> 0,
        ...input(operation.x),
        ...output(operation.out),
      };
    case "headNorm":
      return {
        opcode: OPCODE.headNorm,
        weight: weight(operation.weight),
        site: (operation.site ?? -1) >>> 0,
        n: operation.numHeads,
        k: headDim,
        eps: floatBits(operation.eps),
        offset: operation.offset,
        ...input(operation.x),
      };
    case "ropeKvWrite":
      return { opcode: OPCODE.ropeKvWrite, n: numHeads + 2 * numKvHeads, layerOffset: layerOffset(operation.layer), ...input(operation.qkv) };
    case "attention":
      return {
        opcode: OPCODE.attention,
        n: operation.window ?? 0,
        layerOffset: layerOffset(operation.layer),
        ...input(operation.qkv),
        ...output(operation.out),
      };
    case "route":
      return {
        opcode: OPCODE.route,
        n: program.routing!.numExperts,
        k: program.routing!.topK,
        normalize: operation.normalize ? 1 : 0,
        ...input(operation.logits),
        ...output(operation.out),
      };
    case "expertLinear":
      return {
        opcode: OPCODE.expertLinear,
        weight: weight(operation.weight),
        format,
        matrixBytes: matrixBytes[operation.weight]!,
        n: program.weights[operation.weight]!.rows,
        k: program.weights[operation.weight]!.cols,
        site: operation.site,
        ...input(operation.x),
        ...output(operation.out),
        routedRows: 1,
        gathered: program.buffers[operation.x]!.rows === "step" ? 1 : 0,
      };
    case "combine":
      return {
        opcode: OPCODE.combine,
        n: program.buffers[operation.out]!.width,
        routes: buffers[operation.routes]!,
        routesStride: program.buffers[operation.routes]!.width,
        ...input(operation.x),
        ...output(operation.out),
        routedRows: 0,
      };
    case "siluMul":
      return { opcode: OPCODE.siluMul, n: program.buffers[operation.out]!.width, ...input(operation.x), ...output(operation.out) };
    case "gather":
      // It reads step rows but runs once per sampled row.
      return {
        opcode: OPCODE.gather,
        n: program.buffers[operation.x]!.width,
        ...input(operation.x),
        ...output(operation.out),
        sampledRows: 1,
      };
    case "sample":
      return { opcode: OPCODE.sample, n: program.vocabSize, ...input(operation.logits) };
  }
}
