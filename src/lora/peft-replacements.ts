/**
 * What a PEFT adapter has in place of the base's own: whole modules, trained biases, rows of tokens, copies of base weights.
 *
 * @source peft 0.21: utils/other.py (`_set_trainable`, `set_additional_trainable_modules`), utils/save_and_load.py
 */
import { AdapterError } from "../core/errors.ts";
import { quoted } from "../formats/format-error.ts";
import type { LoraSite, Program, SiteId, SiteModule } from "../model/program.ts";
import type { AdapterConfig } from "./adapter-config.ts";
import type { AdapterMatrix, Replacement } from "./adapter-weights.ts";
import { matrixOf, type PlacedDelta, type PlacedReplacement, vectorOf } from "./assemble-adapter.ts";
import type { ModulePlace, PlacedTensor } from "./place-tensors.ts";
import { areExpertsSaved, isSaved } from "./saved-modules.ts";
import { sharesTokens, tiedSites, withTiedRows } from "./weight-tying.ts";

/**
 * @param tensors those that are no part of a LoRA layer
 * @throws {AdapterError} `adapter_invalid` for one that the configuration does not name, that does not fit, or that is missing
 */
export function readReplacements(
  config: AdapterConfig,
  tensors: readonly PlacedTensor[],
  program: Program,
  deltas: readonly PlacedDelta[],
): readonly PlacedReplacement[] {
  const about: About = { config, adapted: new Set(deltas.map(({ module }) => module.path)), biased: biasedSites(program) };
  const found: PlacedReplacement[] = [];
  for (const each of tensors) {
    const replacement = readReplacement({ ...each, place: ownerOf(each, config, program) }, about);
    if (replacement === null) continue;
    const other = found.find((one) => isSame(one, replacement));
    // PEFT writes a saved module under two names at times.
    if (other !== undefined && haveSameNumbers(other.values, replacement.values)) continue;
    if (other !== undefined) {
      throw new AdapterError("adapter_invalid", `the ${replacement.part} of module ${each.place.module.path} is there twice, the second time as ${quoted(each.name)}`);
    }
    found.push(replacement);
  }
  checkPresent(found, program, about);
  const replacements = withTiedRows(found, config, program);
  checkApart(replacements, deltas);
  return replacements;
}

/** Rows of tokens that both edges share may be there under either name, or under both. */
function ownerOf({ part, place }: PlacedTensor, config: AdapterConfig, program: Program): ModulePlace {
  const tied = tiedSites(program);
  if (part !== "tokens" || place.id !== tied?.head || !sharesTokens(config, program)) return place;
  const site = program.sites[tied.embedding]!;
  return { id: tied.embedding, site, module: site.modules[0]! };
}

interface About {
  readonly config: AdapterConfig;
  /** Paths of modules with LoRA. */
  readonly adapted: ReadonlySet<string>;
  /** Sites with a bias in the base. */
  readonly biased: ReadonlySet<SiteId>;
}

const biasedSites = ({ operations }: Program): ReadonlySet<SiteId> =>
  new Set(operations.flatMap((operation) => (operation.kind === "linear" && operation.bias !== null && operation.site !== null ? [operation.site] : [])));

const isListed = ({ rows }: Pick<Replacement, "rows">): boolean => typeof rows !== "number";

const isSame = (one: PlacedReplacement, other: PlacedReplacement): boolean =>
  one.module === other.module && one.part === other.part && isListed(one) === isListed(other);

const haveSameNumbers = (one: AdapterMatrix, other: AdapterMatrix): boolean => one.dtype === other.dtype && Buffer.compare(one.bytes, other.bytes) === 0;

/** @returns `null` for a tensor that changes nothing */
function readReplacement({ name, tensor, place, part }: PlacedTensor, { config, adapted, biased }: About): PlacedReplacement | null {
  const { id, site, module } = place;
  const isEdge = site.kind === "embedding" || site.kind === "head";
  const replaced = (rows: Replacement["rows"], of: Replacement["part"], form: Replacement["form"], values: AdapterMatrix): PlacedReplacement =>
    ({ site: id, module, part: of, form, rows, values });
  switch (part) {
    case "tokens": {
      const tokens = tokensOf(config, module.path);
      if (tokens === undefined || !isEdge) throw unnamed(name, "trainable_token_indices");
      const { matrix, rows } = sortedRows(name, matrixOf(name, tensor), tokens);
      checkSize(name, place, { rows: tokens.length, cols: weightSize(site, module).cols }, matrix);
      const last = rows.at(-1)!;
      const size = weightSize(site, module).rows;
      if (last >= size) throw new AdapterError("adapter_invalid", `adapter_config.json: trainable_token_indices names token ${last}, but this base has ${size}`, { field: "trainable_token_indices" });
      return replaced(rows, "weight", "trainable_tokens", matrix);
    }
    case "original":
      if (!isSaved(config, module, site)) throw unnamed(name, "modules_to_save");
      return null;
    case "base_bias": {
      const form = isSaved(config, module, site) ? "modules_to_save" : "base_bias";
      if (form === "base_bias" && (config.bias === "none" || (config.bias === "lora_only" && !adapted.has(module.path)))) throw unnamed(name, "bias");
      if (!biased.has(id)) throw new AdapterError("adapter_invalid", `tensor ${quoted(name)} is a bias, which module ${module.path} of this base does not have`);
      const values = columnOf(vectorOf(name, tensor));
      checkSize(name, place, { rows: module.width, cols: 1 }, values);
      return replaced(module.offset, "bias", form, values);
    }
    default: {
      const isWhole = part === "weight" && isSaved(config, module, site);
      // PEFT also writes an embedding or a head because it is adapted, or the vocabulary has another size.
      if (!isWhole && !isEdge) throw unnamed(name, "modules_to_save");
      const values = site.kind === "norm" ? columnOf(vectorOf(name, tensor)) : matrixOf(name, tensor);
      checkSize(name, place, weightSize(site, module), values);
      return replaced(site.kind === "embedding" ? 0 : module.offset, "weight", isWhole ? "modules_to_save" : "base_copies", values);
    }
  }
}

const unnamed = (tensor: string, field: string): AdapterError =>
  new AdapterError("adapter_invalid", `tensor ${quoted(tensor)} replaces a part of the base that ${field} of adapter_config.json does not name`, { field });

/** A weight's rows are outputs, but for an embedding's, which are tokens. */
const weightSize = ({ kind, inWidth, outWidth }: LoraSite, { width }: SiteModule): { readonly rows: number; readonly cols: number } =>
  kind === "embedding" ? { rows: inWidth, cols: outWidth } : { rows: width, cols: kind === "norm" ? 1 : inWidth };

function checkSize(name: string, { site, module }: ModulePlace, wanted: { readonly rows: number; readonly cols: number }, got: AdapterMatrix): void {
  if (got.rows === wanted.rows && got.cols === wanted.cols) return;
  const isVocabulary = (site.kind === "embedding" || site.kind === "head") && got.cols === wanted.cols;
  const advice = isVocabulary ? "; serve an adapter whose vocabulary was changed on a base that has it" : "";
  throw new AdapterError("adapter_invalid", `tensor ${quoted(name)} has shape [${got.rows}, ${got.cols}], but module ${module.path} of this base needs [${wanted.rows}, ${wanted.cols}]${advice}`);
}

const columnOf = (vector: Float32Array): AdapterMatrix => ({ dtype: "F32", rows: vector.length, cols: 1, bytes: new Uint8Array(vector.buffer, vector.byteOffset, vector.byteLength) });

const tokensOf = ({ trainedTokens }: AdapterConfig, path: string): readonly number[] | undefined => trainedTokens.get([...trainedTokens.keys()].find((name) => path.endsWith(name)) ?? "");

/** Rows in ascending order of their tokens. */
function sortedRows(name: string, matrix: AdapterMatrix, tokens: readonly number[]): { readonly matrix: AdapterMatrix; readonly rows: readonly number[] } {
  if (matrix.rows !== tokens.length) {
    throw new AdapterError("adapter_invalid", `tensor ${quoted(name)} has ${matrix.rows} rows for the ${tokens.length} tokens of trainable_token_indices`, { field: "trainable_token_indices" });
  }
  const order = [...tokens.keys()].sort((a, b) => tokens[a]! - tokens[b]!);
  const rowBytes = matrix.bytes.length / matrix.rows;
  const bytes = new Uint8Array(matrix.bytes.length);
  order.forEach((from, to) => bytes.set(matrix.bytes.subarray(from * rowBytes, (from + 1) * rowBytes), to * rowBytes));
  return { matrix: { ...matrix, bytes }, rows: order.map((i) => tokens[i]!) };
}

/** A file that was cut must not serve half an adapter. A module is there in any of its spellings, fused and split ones too. */
function checkPresent(found: readonly PlacedReplacement[], program: Program, { config, adapted, biased }: About): void {
  const missing = (module: SiteModule, what: string, field: string): AdapterError =>
    new AdapterError("adapter_invalid", `${field} of adapter_config.json names ${what} of module ${module.path}, which the file does not have`, { field });
  // With transformers 5 an expert has no modules, so that names of modules are those of dense layers alone.
  const hasExperts = found.some(({ site }) => program.sites[site]!.expert !== undefined);
  program.sites.forEach((site, id) => {
    if (site.expert !== undefined && !hasExperts && !areExpertsSaved(config, site)) return;
    const here = found.filter((each) => each.site === id);
    const need = (module: SiteModule, part: Replacement["part"], field: string): void => {
      if (!here.some((each) => each.part === part && !isListed(each) && covers(each.module, module))) throw missing(module, `the ${part}`, field);
    };
    for (const module of site.modules.filter(({ own }) => own)) {
      // In any spelling: transformers 5 has other names for routers.
      const isWhole = site.modules.some((each) => each.offset === module.offset && each.width === module.width && isSaved(config, each, site));
      if (isWhole) need(module, "weight", "modules_to_save");
      if (!biased.has(id)) continue;
      if (isWhole) need(module, "bias", "modules_to_save");
      else if (config.bias === "all" || (config.bias === "lora_only" && adapted.has(module.path))) need(module, "bias", "bias");
    }
  });
  for (const name of config.trainedTokens.keys()) {
    const named = program.sites.filter(({ kind, modules }) => (kind === "embedding" || kind === "head") && modules[0]!.path.endsWith(name));
    if (named.length === 0) throw new AdapterError("adapter_invalid", `adapter_config.json: trainable_token_indices names ${quoted(name)}, which is no embedding of this base`, { field: "trainable_token_indices" });
    for (const { kind, modules: [module] } of named) {
      if (kind === "head" && sharesTokens(config, program)) continue;
      if (!found.some((each) => each.module === module && isListed(each))) throw missing(module!, "the rows of tokens", "trainable_token_indices");
    }
  }
}

const covers = (one: SiteModule, other: SiteModule): boolean => one.offset <= other.offset && one.offset + one.width >= other.offset + other.width;

/** No output may be replaced twice, and gains are of the whole matrix that a module has. */
function checkApart(replacements: readonly PlacedReplacement[], deltas: readonly PlacedDelta[]): void {
  const runs = replacements.filter((each) => each.part === "weight" && !isListed(each));
  const overlaps = (one: SiteModule, other: SiteModule): boolean => one.offset < other.offset + other.width && other.offset < one.offset + one.width;
  runs.forEach(({ site, form, module }, i) => {
    if (runs.slice(0, i).some((other) => other.site === site && overlaps(other.module, module))) {
      throw new AdapterError("adapter_invalid", `module ${module.path} overlaps another that is replaced too`);
    }
    if (form === "modules_to_save" && deltas.some((delta) => delta.site === site && overlaps(delta.module, module))) {
      throw new AdapterError("adapter_unsupported", `module ${module.path} is replaced by modules_to_save and has LoRA matrices too, which PEFT does not train`, { field: "modules_to_save" });
    }
  });
  for (const { site, module } of replacements.filter(isListed)) {
    if (deltas.some((delta) => delta.site === site && delta.magnitude !== undefined)) {
      throw new AdapterError("adapter_unsupported", `module ${module.path} has rows of trainable_token_indices and a magnitude of use_dora, which is not served together; retrain without one of them`, { field: "trainable_token_indices" });
    }
  }
}
