/** NeMo's configuration and tensors, of one rank or of many, to the one form of `adapter-weights.ts`. */
import { AdapterError } from "../core/errors.ts";
import { quoted } from "../formats/format-error.ts";
import type { Tensor } from "../formats/safetensors.ts";
import type { LoraSite, Program, SiteId, SiteModule } from "../model/program.ts";
import type { AdapterMatrix, AdapterWeights } from "./adapter-weights.ts";
import { type AdapterLimits, assembleAdapter, matrixOf, type PlacedDelta } from "./assemble-adapter.ts";
import { joinColumns, pickRows, stackRows } from "./matrix-rows.ts";
import { NEMO_TARGETS, type NemoConfig } from "./nemo-config.ts";
import { type NemoAdapter, parseNemoKey } from "./nemo-keys.ts";

/** The weights of one process of the training. */
export interface NemoRank {
  readonly tensorRank: number;
  readonly pipelineRank: number;
  readonly tensors: ReadonlyMap<string, Tensor>;
}

/** One adapter of one layer: its matrices of every tensor-parallel rank, in order. */
interface Pieces {
  readonly layer: number;
  readonly adapter: NemoAdapter;
  readonly a: (AdapterMatrix | undefined)[];
  readonly b: (AdapterMatrix | undefined)[];
}

/** @throws {AdapterError} `adapter_invalid` or `adapter_unsupported`, naming the tensor or module at fault */
export function translateNemo(config: NemoConfig, ranks: readonly NemoRank[], program: Program, limits: AdapterLimits): AdapterWeights {
  checkRanks(config, ranks);
  const pieces = gatherPieces(config, ranks, program);
  checkComplete(config, pieces, program);
  const places = placesOf(program);
  const deltas = pieces.flatMap((piece) => placePiece(piece, config, program, places));
  return assembleAdapter(deltas, program, limits, {
    format: "nemo",
    scaleRule: config.alpha === null ? "1" : "alpha/rank",
    warnings: [],
  });
}

function checkRanks({ tensorParallel, pipelineParallel }: NemoConfig, ranks: readonly NemoRank[]): void {
  const found = new Set(ranks.map(({ tensorRank, pipelineRank }) => `${tensorRank} ${pipelineRank}`));
  const isWhole = ranks.length === tensorParallel * pipelineParallel && found.size === ranks.length &&
    ranks.every(({ tensorRank, pipelineRank }) => tensorRank < tensorParallel && pipelineRank < pipelineParallel);
  if (isWhole) return;
  throw new AdapterError(
    "adapter_invalid",
    `the .nemo archive has weights of ${ranks.length} ranks, but model_config.yaml says ${tensorParallel} tensor-parallel times ${pipelineParallel} pipeline-parallel`,
  );
}

function gatherPieces(config: NemoConfig, ranks: readonly NemoRank[], program: Program): Pieces[] {
  const { tensorParallel, pipelineParallel } = config;
  if (program.numLayers % pipelineParallel !== 0) {
    throw new AdapterError("adapter_invalid", `model_config.yaml: pipeline_model_parallel_size ${pipelineParallel} does not divide the base model's ${program.numLayers} layers`);
  }
  const layersPerRank = program.numLayers / pipelineParallel;
  const pieces = new Map<string, Pieces>();
  for (const { tensorRank, pipelineRank, tensors } of ranks) {
    for (const [name, tensor] of tensors) {
      const { layer: local, adapter, matrix } = parseNemoKey(name);
      if (local >= layersPerRank) {
        throw new AdapterError("adapter_invalid", `tensor ${quoted(name)} is for layer ${local}, but the base model has ${layersPerRank} layers${pipelineParallel > 1 ? " a rank" : ""}`);
      }
      if (!config.targets.has(adapter.target)) {
        throw new AdapterError("adapter_invalid", `tensor ${quoted(name)} is for ${adapter.target}, which target_modules of model_config.yaml does not name`);
      }
      const layer = local + pipelineRank * layersPerRank;
      const key = `${layer} ${adapter.module}`;
      const piece = pieces.get(key) ?? { layer, adapter, a: emptyRanks(tensorParallel), b: emptyRanks(tensorParallel) };
      if (piece[matrix][tensorRank] !== undefined || piece.adapter !== adapter) {
        throw new AdapterError("adapter_invalid", `matrix ${matrix.toUpperCase()} of ${adapter.module} in layer ${layer} is there twice, the second time as ${quoted(name)}`);
      }
      piece[matrix][tensorRank] = matrixOf(name, tensor);
      pieces.set(key, piece);
    }
  }
  return [...pieces.values()];
}

const emptyRanks = (count: number): (AdapterMatrix | undefined)[] => Array.from({ length: count }, () => undefined);

/** A file that was cut, or saved for part of its modules only, must not serve half an adapter. */
function checkComplete({ targets, layers }: NemoConfig, pieces: readonly Pieces[], program: Program): void {
  const found = new Set(pieces.map(({ layer, adapter }) => `${layer} ${adapter.module}`));
  for (let layer = 0; layer < program.numLayers; layer++) {
    if (layers !== null && !layers.has(layer)) continue;
    for (const target of NEMO_TARGETS) {
      if (!targets.has(target)) continue;
      const isThere = WHOLE[target].some((modules) => modules.every((module) => found.has(`${layer} ${module}`)));
      if (isThere) continue;
      throw new AdapterError("adapter_invalid", `layer ${layer} has no whole adapter for ${target}, which target_modules of model_config.yaml names`);
    }
  }
}

/** Modules that make up a target, in each of the ways that it may be divided. */
const WHOLE = {
  attention_qkv: [["qkv_proj"], ["q_proj", "k_proj", "v_proj"], ["q_proj", "kv"]],
  attention_dense: [["o_proj"]],
  mlp_fc1: [["gate_up_proj"], ["gate_proj", "up_proj"]],
  mlp_fc2: [["down_proj"]],
} as const;

interface Place {
  readonly id: SiteId;
  readonly site: LoraSite;
  readonly module: SiteModule;
}

/** By layer and the last part of a module's path. */
const placesOf = (program: Program): ReadonlyMap<string, Place> =>
  new Map(
    // NeMo's adapters of experts are refused by name; names of a dense layer must not reach them.
    program.sites.flatMap((site, id) =>
      site.expert !== undefined ? [] : site.modules.map((module) => [`${site.layer} ${module.path.slice(module.path.lastIndexOf(".") + 1)}`, { id, site, module }] as const),
    ),
  );

function placePiece({ layer, adapter, a, b }: Pieces, config: NemoConfig, program: Program, places: ReadonlyMap<string, Place>): PlacedDelta[] {
  const name = `${adapter.module} in layer ${layer}`;
  const missing = a.includes(undefined) ? "linear_in" : b.includes(undefined) ? "linear_out" : null;
  if (missing !== null) throw new AdapterError("adapter_invalid", `${name} has no ${missing}.weight on every rank; the file is incomplete`);
  const shrink = (adapter.divides === "rows" ? stackRows : joinColumns)(name, a as AdapterMatrix[]);
  const expands = mergedRows(adapter, name, b as AdapterMatrix[], config.layout, program);
  return expands.map(({ module: moduleName, b: expand }): PlacedDelta => {
    const place = places.get(`${layer} ${moduleName}`);
    if (place === undefined) throw new AdapterError("adapter_invalid", `the base model has no ${moduleName} in layer ${layer}`);
    const { id, site, module } = place;
    const rank = config.rank ?? shrink.rows;
    const shape = (got: AdapterMatrix, kind: string, rows: number, cols: number): void => {
      if (got.rows === rows && got.cols === cols) return;
      throw new AdapterError("adapter_invalid", `${kind} of ${moduleName} in layer ${layer} has shape [${got.rows}, ${got.cols}], but this base and rank ${rank} need [${rows}, ${cols}]`);
    };
    shape(shrink, "linear_in", rank, site.inWidth);
    shape(expand, "linear_out", module.width, rank);
    const scale = config.alpha === null ? 1 : config.alpha / rank;
    return { module, site: id, offset: module.offset, width: module.width, rank, scale, a: shrink, b: expand };
  });
}

/** B in the base's order of rows, all ranks in one; a fused key and value matrix becomes two. */
function mergedRows(
  { rows, module }: NemoAdapter,
  name: string,
  ranks: readonly AdapterMatrix[],
  layout: NemoConfig["layout"],
  program: Program,
): { readonly module: string; readonly b: AdapterMatrix }[] {
  const { numHeads, numKvHeads, headDim } = program.attention;
  if (rows === "plain") return [{ module, b: stackRows(name, ranks) }];
  // Megatron divides whole groups among ranks, so that they stack; other orders are divided within each rank.
  const blocks = layout === "megatron" && rows !== "halves" ? [stackRows(name, ranks)] : ranks;
  const numQueries = rows === "qkv" ? numHeads / numKvHeads : 0;
  const parts = rows === "halves" ? [1, 1] : [numQueries, 1, 1].filter((part) => part > 0);
  const numGroups = rows === "halves" ? 1 : layout === "megatron" ? numKvHeads : 1;
  const total = parts.reduce((sum, part) => sum + part, 0);
  const partRows = parts.map((part, p) =>
    stackRows(name, blocks.map((block) => {
      const unit = block.rows / (numGroups * total);
      const isHeads = rows === "halves" || layout === "sequential" || unit === headDim;
      if (!Number.isInteger(unit) || !isHeads) {
        throw new AdapterError("adapter_invalid", `linear_out of ${name} has ${block.rows} rows, which cannot be divided into the base model's ${numHeads} heads in ${numKvHeads} groups`);
      }
      const before = parts.slice(0, p).reduce((sum, each) => sum + each, 0);
      return pickRows(block, Array.from({ length: numGroups }, (_, group) => [(group * total + before) * unit, part * unit] as const));
    })),
  );
  if (rows === "kv") return [{ module: "k_proj", b: partRows[0]! }, { module: "v_proj", b: partRows[1]! }];
  return [{ module, b: stackRows(name, partRows) }];
}
