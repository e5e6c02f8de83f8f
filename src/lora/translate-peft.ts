/** PEFT's configuration and tensors to the one form of `adapter-weights.ts`. */
import { AdapterError } from "../core/errors.ts";
import { quoted } from "../formats/format-error.ts";
import type { Tensor } from "../formats/safetensors.ts";
import type { LoraSite, Program, SiteId, SiteModule } from "../model/program.ts";
import type { AdapterConfig } from "./adapter-config.ts";
import type { AdapterMatrix, AdapterWeights } from "./adapter-weights.ts";
import { type AdapterLimits, assembleAdapter, matrixOf, type PlacedDelta, vectorOf } from "./assemble-adapter.ts";
import { unstackExperts } from "./expert-parameters.ts";
import { moduleNames, patternLookup, type RequiredModule, targetedModules } from "./module-match.ts";
import { parsePeftKey } from "./peft-keys.ts";

interface Place {
  readonly id: SiteId;
  readonly site: LoraSite;
  readonly module: SiteModule;
}

interface Pair {
  readonly place: Place;
  a?: AdapterMatrix;
  b?: AdapterMatrix;
  bias?: Float32Array;
  magnitude?: Float32Array;
}

/**
 * @param program whose sites say which modules the base has
 * @throws {AdapterError} `adapter_invalid` or `adapter_unsupported`, naming the tensor or module at fault
 */
export function translatePeft(
  config: AdapterConfig,
  tensors: ReadonlyMap<string, Tensor>,
  program: Program,
  limits: AdapterLimits = {},
): AdapterWeights {
  const places = placesOf(program);
  const targeted = targetedModules(config, program.sites);
  const pairs = pairTensors(unstackExperts(tensors, program), places, targeted.paths, program.sites);
  checkComplete(targeted.required, pairs);

  const rankOf = patternLookup(config.rankPattern, "rank_pattern");
  const alphaOf = patternLookup(config.alphaPattern, "alpha_pattern");
  const deltas = [...pairs].map(([path, pair]): PlacedDelta => {
    const { id, site, module } = pair.place;
    const { a, b } = pair as Required<Pair>;
    const key = targeted.patternKey(path);
    const rank = rankOf(key) ?? config.rank;
    checkShapes(path, a, b, site, module, rank);
    const { bias, magnitude } = pair;
    checkVector(path, bias, "lora_B.bias", "lora_bias", module, config.loraBias);
    checkVector(path, magnitude, "lora_magnitude_vector", "use_dora", module, config.useDora);
    const alpha = alphaOf(key) ?? config.alpha;
    const scale = alpha / (config.useRslora ? Math.sqrt(rank) : rank);
    return { module, site: id, offset: module.offset, width: module.width, rank, scale, a, b, ...(bias === undefined ? {} : { bias }), ...(magnitude === undefined ? {} : { magnitude }) };
  });
  if (config.useDora) checkApart(deltas);
  return assembleAdapter(deltas, program, limits, {
    format: "peft",
    scaleRule: config.useRslora ? "alpha/sqrt(rank)" : "alpha/rank",
    warnings: config.warnings,
    ...(config.invocation === null ? {} : { invocation: inVocabulary(config.invocation, program) }),
  });
}

/** One that no prompt can hold would be the base model under another name. */
function inVocabulary(invocation: readonly number[], { vocabSize }: Program): readonly number[] {
  const unknown = invocation.find((id) => id >= vocabSize);
  if (unknown === undefined) return invocation;
  throw new AdapterError(
    "adapter_invalid",
    `adapter_config.json: alora_invocation_tokens has the token id ${unknown}, but this base's ids end at ${vocabSize - 1}; the adapter is for another tokenizer`,
    { field: "alora_invocation_tokens" },
  );
}

function placesOf(program: Program): ReadonlyMap<string, Place> {
  return new Map(
    program.sites.flatMap((site, id) => site.modules.map((module) => [module.path, { id, site, module }] as const)),
  );
}

function pairTensors(
  tensors: ReadonlyMap<string, Tensor>,
  places: ReadonlyMap<string, Place>,
  targets: ReadonlySet<string>,
  sites: readonly LoraSite[],
): Map<string, Pair> {
  if (tensors.size === 0) throw new AdapterError("adapter_invalid", "the adapter's file holds no tensors");
  const pairs = new Map<string, Pair>();
  for (const [name, tensor] of tensors) {
    const { module, part } = parsePeftKey(name, (path) => places.has(path));
    const place = places.get(module);
    if (place === undefined) {
      throw new AdapterError(
        "adapter_invalid",
        `tensor ${quoted(name)} is for module ${quoted(module)}, which the base model does not have; ` +
          `it has ${places.size === 0 ? "none" : `${maxLayer(sites) + 1} layers with ${moduleNames(sites).join(", ")}`}`,
      );
    }
    if (!targets.has(module)) {
      throw new AdapterError(
        "adapter_invalid",
        `tensor ${quoted(name)} is for a module that target_modules of adapter_config.json does not name`,
      );
    }
    const pair: Pair = pairs.get(module) ?? { place };
    if (pair[part] !== undefined) {
      throw new AdapterError("adapter_invalid", `${part.length > 1 ? `the ${part}` : `matrix ${part.toUpperCase()}`} of module ${module} is there twice, the second time as ${quoted(name)}`);
    }
    if (part === "bias" || part === "magnitude") pair[part] = vectorOf(name, tensor);
    else pair[part] = matrixOf(name, tensor);
    pairs.set(module, pair);
  }
  for (const [module, pair] of pairs) {
    for (const matrix of ["a", "b"] as const) {
      if (pair[matrix] !== undefined) continue;
      const letter = matrix.toUpperCase();
      throw new AdapterError("adapter_invalid", `module ${module} has no lora_${letter}.weight; the file is incomplete`);
    }
  }
  return pairs;
}

function checkVector(
  path: string,
  vector: Float32Array | undefined,
  tensor: string,
  field: string,
  { width }: SiteModule,
  isExpected: boolean,
): void {
  if ((vector !== undefined) !== isExpected) {
    const problem = isExpected ? `has no ${tensor}, though ${field} is set` : `has a ${tensor}, though ${field} is not set`;
    throw new AdapterError("adapter_invalid", `module ${path} ${problem} in adapter_config.json`, { field });
  }
  if (vector !== undefined && vector.length !== width) {
    throw new AdapterError("adapter_invalid", `${tensor} of module ${path} has ${vector.length} numbers, but this base needs ${width}`);
  }
}

/** A gain multiplies all that is added to an output, so no other delta may write there. */
function checkApart(deltas: readonly PlacedDelta[]): void {
  const sites = Map.groupBy(deltas, ({ site }) => site);
  for (const list of sites.values()) {
    let end = 0;
    for (const { module, offset, width } of list.toSorted((a, b) => a.offset - b.offset)) {
      if (offset < end) throw new AdapterError("adapter_unsupported", `module ${module.path} overlaps another module of the adapter, which DoRA does not allow`);
      end = offset + width;
    }
  }
}

/** A file that was cut, or saved for part of its modules only, must not serve half an adapter. */
function checkComplete(
  required: readonly RequiredModule[],
  pairs: ReadonlyMap<string, Pair>,
): void {
  for (const { site, module, field } of required) {
    const covered = site.modules.some(
      ({ path, offset, width }) =>
        pairs.has(path) && offset <= module.offset && offset + width >= module.offset + module.width,
    );
    if (covered) continue;
    throw new AdapterError("adapter_invalid", `module ${module.path} is named by ${field}, but the file has no tensors for it`);
  }
}

function checkShapes(
  path: string,
  a: AdapterMatrix,
  b: AdapterMatrix,
  site: LoraSite,
  module: SiteModule,
  rank: number,
): void {
  const wrong = (matrix: string, got: AdapterMatrix, rows: number, cols: number): AdapterError =>
    new AdapterError(
      "adapter_invalid",
      `lora_${matrix} of module ${path} has shape [${got.rows}, ${got.cols}], but this base and the configured rank ${rank} need [${rows}, ${cols}]`,
    );
  if (a.rows !== b.cols) {
    throw new AdapterError("adapter_invalid", `module ${path} has rank ${a.rows} in lora_A, but ${b.cols} in lora_B`);
  }
  if (a.cols !== site.inWidth || a.rows !== rank) throw wrong("A", a, rank, site.inWidth);
  if (b.rows !== module.width) throw wrong("B", b, module.width, rank);
}

const maxLayer = (sites: readonly LoraSite[]): number => Math.max(...sites.map((site) => site.layer));
