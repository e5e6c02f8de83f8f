/**
 * Adapters on the parameters that hold all experts of a layer, as PEFT's `target_parameters` writes them.
 *
 *   A [experts * rank, in]    expert by expert
 *   B [out, rank * experts]   the expert runs fastest within a row
 *
 * `modules_to_save` writes the parameters of its own that an adapter has, [experts, out, in].
 *
 * Tensors are named after the module that owns the parameters. Of two parameters of one module, the first to be
 * wrapped is one `.base_layer` deeper; which is which is told by their shapes.
 *
 * @source peft 0.21, tuners/lora/layer.py ParamWrapper
 */
import { AdapterError } from "../core/errors.ts";
import { quoted } from "../formats/format-error.ts";
import type { Tensor } from "../formats/safetensors.ts";
import type { LoraSite, Program, SiteModule } from "../model/program.ts";

const STACKED = /^(?:base_model\.model\.)?(.+\.experts)((?:\.base_layer)*)\.lora_([AB])(?:\.[A-Za-z0-9_-]+)?\.weight$/;
const SAVED = /^(?:base_model\.model\.)?(.+\.experts)(?:\.modules_to_save(?:\.[A-Za-z0-9_-]+)?)?\.(\w+)$/;
const DTYPE_BYTES = { F32: 4, F16: 2, BF16: 2 } as const;

interface Stacked {
  /** Path of the module that owns the parameter. */
  readonly owner: string;
  a?: Tensor;
  b?: Tensor;
}

/**
 * The same tensors with one A and one B, or one matrix, per expert in place of stacked ones, named after the expert's fused module.
 *
 * @throws {AdapterError} `adapter_invalid` naming the tensor whose shape fits no parameter of the base
 */
export function unstackExperts(tensors: ReadonlyMap<string, Tensor>, program: Program): ReadonlyMap<string, Tensor> {
  const byParameter = Map.groupBy(
    program.sites.filter(({ expert }) => expert !== undefined),
    ({ parameter }) => parameter!,
  );
  const owners = Map.groupBy(byParameter.values(), ([site]) => ownerOf(site!.parameter!));
  const plain = new Map<string, Tensor>();
  const stacks = new Map<string, Stacked>();
  const addApart = (of: string, parts: readonly (readonly [string, Tensor])[]): void => {
    for (const [name, tensor] of parts) {
      if (plain.has(name)) throw invalid(of, `changes ${quoted(name)}, which the file holds apart too`);
      plain.set(name, tensor);
    }
  };
  for (const [name, tensor] of tensors) {
    const [, holder, leaf] = SAVED.exec(name) ?? [];
    const saved = byParameter.get(`${holder}.${leaf}`);
    if (saved !== undefined) {
      addApart(holder!, matrices(name, tensor, saved));
      continue;
    }
    const [, owner, depth, matrix] = STACKED.exec(name) ?? [];
    if (owner === undefined || !owners.has(owner)) {
      plain.set(name, tensor);
      continue;
    }
    const key = `${owner}${depth}`;
    const stack = stacks.get(key) ?? { owner };
    const part = matrix === "A" ? "a" : "b";
    if (stack[part] !== undefined) throw invalid(key, `has two tensors for matrix ${matrix}`);
    stack[part] = tensor;
    stacks.set(key, stack);
  }
  const seen = new Set<string>();
  for (const [key, { owner, a, b }] of stacks) {
    if (a === undefined || b === undefined) throw invalid(key, `has no lora_${a === undefined ? "A" : "B"}.weight; the file is incomplete`);
    const sites = owners.get(owner)!.find(([site]) => fits(site!, a, b));
    if (sites === undefined) throw shapeError(key, a, b, owners.get(owner)!);
    if (seen.has(sites[0]!.parameter!)) throw invalid(key, `has the shape of ${sites[0]!.parameter!}, which another tensor has too`);
    seen.add(sites[0]!.parameter!);
    addApart(key, perExpert(key, sites, a, b));
  }
  return plain;
}

/** The module of an expert that is all of its matrix, by the parameter's name. */
export const wholeModule = ({ modules, outWidth }: LoraSite): SiteModule => modules.findLast(({ offset, width }) => offset === 0 && width === outWidth)!;

/** The module that a parameter is of. */
export const ownerOf = (parameter: string): string => parameter.slice(0, parameter.lastIndexOf("."));

const fits = ({ inWidth, outWidth }: LoraSite, a: Tensor, b: Tensor): boolean =>
  a.shape.length === 2 && b.shape.length === 2 && a.shape[1] === inWidth && b.shape[0] === outWidth;

function matrices(name: string, { shape, bytes, ...tensor }: Tensor, sites: readonly LoraSite[]): [string, Tensor][] {
  const { outWidth, inWidth, parameter } = sites[0]!;
  const wanted = [sites.length, outWidth, inWidth];
  if (shape.length !== wanted.length || shape.some((size, i) => size !== wanted[i])) {
    throw new AdapterError("adapter_invalid", `tensor ${quoted(name)} has shape [${shape.join(", ")}], but this base needs [${wanted.join(", ")}] for ${parameter!}`);
  }
  const matrixBytes = bytes.length / sites.length;
  return sites.map((site, expert) => [
    `${wholeModule(site).path}.weight`,
    { ...tensor, shape: [outWidth, inWidth], bytes: bytes.subarray(expert * matrixBytes, (expert + 1) * matrixBytes) },
  ]);
}

function perExpert(key: string, sites: readonly LoraSite[], a: Tensor, b: Tensor): [string, Tensor][] {
  const [stackedRank, inWidth] = a.shape as [number, number];
  const [outWidth, columns] = b.shape as [number, number];
  const rank = stackedRank / sites.length;
  if (columns !== stackedRank || !Number.isInteger(rank) || rank === 0) {
    throw invalid(key, `has lora_A of ${stackedRank} rows and lora_B of ${columns} columns; both must be the rank times the base's ${sites.length} experts`);
  }
  const expertBytes = rank * inWidth * DTYPE_BYTES[a.dtype];
  const words = wordsOf(b);
  return sites.flatMap((site, expert): [string, Tensor][] => {
    const { path } = wholeModule(site);
    return [
      [`${path}.lora_A.weight`, { ...a, shape: [rank, inWidth], bytes: a.bytes.subarray(expert * expertBytes, (expert + 1) * expertBytes) }],
      [`${path}.lora_B.weight`, { ...b, shape: [outWidth, rank], bytes: everyNth(words, expert, sites.length) }],
    ];
  });
}

/** Tensors in a file may start at any byte; typed arrays may not. */
function wordsOf({ dtype, bytes }: Tensor): Uint16Array | Uint32Array {
  const { buffer } = new Uint8Array(bytes);
  return DTYPE_BYTES[dtype] === 4 ? new Uint32Array(buffer) : new Uint16Array(buffer);
}

/** Elements `first`, `first + step`, ... */
function everyNth(from: Uint16Array | Uint32Array, first: number, step: number): Uint8Array {
  const to = from instanceof Uint32Array ? new Uint32Array(from.length / step) : new Uint16Array(from.length / step);
  for (let i = 0, at = first; i < to.length; i++, at += step) to[i] = from[at]!;
  return new Uint8Array(to.buffer);
}

function shapeError(key: string, a: Tensor, b: Tensor, parameters: readonly (readonly LoraSite[])[]): AdapterError {
  const wanted = parameters.map(([site]) => `[rank x ${parameters[0]!.length}, ${site!.inWidth}] and [${site!.outWidth}, rank x ${parameters[0]!.length}] for ${site!.parameter!}`);
  return invalid(key, `has lora_A of shape [${a.shape.join(", ")}] and lora_B of [${b.shape.join(", ")}], but this base needs ${wanted.join(", or ")}`);
}

const invalid = (module: string, problem: string): AdapterError => new AdapterError("adapter_invalid", `module ${module} ${problem}`);
