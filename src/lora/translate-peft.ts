/** PEFT's configuration and tensors to the one form of `adapter-weights.ts`. */
import { AdapterError } from "../core/errors.ts";
import { quoted } from "../formats/format-error.ts";
import type { Tensor } from "../formats/safetensors.ts";
import type { LoraSite, Program, SiteModule } from "../model/program.ts";
import type { AdapterConfig } from "./adapter-config.ts";
import type { AdapterMatrix, AdapterWeights } from "./adapter-weights.ts";
import { type AdapterLimits, assembleAdapter, matrixOf, type PlacedDelta, type PlacedReplacement, vectorOf } from "./assemble-adapter.ts";
import { unstackExperts } from "./expert-parameters.ts";
import { patternLookup, type RequiredModule, targetedModules } from "./module-match.ts";
import type { LoraPart } from "./peft-keys.ts";
import { readReplacements } from "./peft-replacements.ts";
import { type ModulePlace, type PlacedTensor, placeTensors } from "./place-tensors.ts";
import { unknownModules } from "./saved-modules.ts";
import { withTiedNames } from "./weight-tying.ts";

interface Pair {
  readonly place: ModulePlace;
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
  given: AdapterConfig,
  tensors: ReadonlyMap<string, Tensor>,
  program: Program,
  limits: AdapterLimits = {},
): AdapterWeights {
  const config = withTiedNames(given, program);
  const placed = placeTensors(unstackExperts(tensors, program), program);
  const targeted = targetedModules(config, program);
  if (targeted.required.some(({ field }) => field === "target_parameters")) refuseBesideParameters(config);
  const pairs = pairTensors(placed.filter(isLora), targeted.paths);
  checkComplete(targeted.required, pairs);

  const rankOf = patternLookup(config.rankPattern, "rank_pattern");
  const alphaOf = patternLookup(config.alphaPattern, "alpha_pattern");
  const deltas = [...pairs].map(([path, pair]): PlacedDelta => {
    const { id, site, module } = pair.place;
    if (site.kind === "embedding" && config.loraBias) throw new AdapterError("adapter_unsupported", `module ${path} is an embedding, for which PEFT does not train lora_bias`, { field: "lora_bias" });
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
  const replacements = readReplacements(config, placed.filter((each) => !isLora(each)), program, deltas);
  if (config.invocation !== null) checkInLayers([...deltas, ...replacements], program);
  return assembleAdapter(deltas, program, limits, {
    format: "peft",
    scaleRule: config.useRslora ? "alpha/sqrt(rank)" : "alpha/rank",
    warnings: [...config.warnings, ...unknownModules(config, program)],
    ...(config.invocation === null ? {} : { invocation: inVocabulary(config.invocation, program) }),
  }, replacements);
}

/** PEFT names parameters by itself at times, also of experts that the base does not have. */
function refuseBesideParameters({ useDora, loraBias }: AdapterConfig): void {
  if (!useDora && !loraBias) return;
  const field = useDora ? "use_dora" : "lora_bias";
  throw new AdapterError("adapter_unsupported", `adapter_config.json: ${field} is set together with target_parameters, which PEFT does not train`, { field });
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

/** What is outside the layers would act on the tokens before the invocation too, as PEFT's embeddings do. */
function checkInLayers(changes: readonly (PlacedDelta | PlacedReplacement)[], { sites }: Program): void {
  const outside = changes.find(({ site }) => sites[site]!.kind !== undefined);
  if (outside === undefined) return;
  throw new AdapterError("adapter_unsupported", `adapter_config.json: alora_invocation_tokens is set together with changes of ${outside.module.path}; an adapter that acts from its invocation on is served in linear layers only`, {
    field: "alora_invocation_tokens",
  });
}

interface LoraTensor extends PlacedTensor {
  readonly part: LoraPart;
}

const isLora = (placed: PlacedTensor): placed is LoraTensor => ["a", "b", "bias", "magnitude"].includes(placed.part);

function pairTensors(tensors: readonly LoraTensor[], targets: ReadonlySet<string>): Map<string, Pair> {
  const pairs = new Map<string, Pair>();
  for (const { name, tensor, place, part, ofEmbedding } of tensors) {
    const { path } = place.module;
    if (!targets.has(path)) {
      throw new AdapterError(
        "adapter_invalid",
        `tensor ${quoted(name)} is for a module that target_modules of adapter_config.json does not name`,
      );
    }
    if ((part === "a" || part === "b") && ofEmbedding !== (place.site.kind === "embedding")) {
      throw new AdapterError("adapter_invalid", `tensor ${quoted(name)} is ${ofEmbedding ? "" : "not "}spelled as an embedding's, which module ${path} is${ofEmbedding ? " not" : ""}`);
    }
    const pair: Pair = pairs.get(path) ?? { place };
    if (pair[part] !== undefined) {
      throw new AdapterError("adapter_invalid", `${part.length > 1 ? `the ${part}` : `matrix ${part.toUpperCase()}`} of module ${path} is there twice, the second time as ${quoted(name)}`);
    }
    if (part === "bias" || part === "magnitude") pair[part] = vectorOf(name, tensor);
    else pair[part] = matrixOf(name, tensor);
    pairs.set(path, pair);
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
