/** The last steps of every translation: limits, order, digest and report. */
import { AdapterError } from "../core/errors.ts";
import { quoted } from "../formats/format-error.ts";
import type { Tensor } from "../formats/safetensors.ts";
import type { Program, SiteId, SiteModule } from "../model/program.ts";
import { type AdapterReport, summarizeModules, summarizeReplaced } from "./adapter-report.ts";
import type { AdapterForm, AdapterMatrix, AdapterWeights, LoraDelta, Replacement } from "./adapter-weights.ts";
import { adapterDigest } from "./digest.ts";
import { firstNonFinite } from "./finite.ts";
import type { ModuleAlias } from "./module-aliases.ts";
import { isAllowed, type TargetModules } from "./target-modules.ts";

export interface AdapterLimits {
  /** Directories of which one must hold every file after all links; left out for adapters that the operator named. */
  readonly within?: readonly string[] | undefined;
  /** Largest rank of any module; no limit when left out. */
  readonly maxRank?: number | undefined;
  /** The setting that the rank is limited by, for messages; default `max_lora_rank`. */
  readonly maxRankSetting?: string;
  /** Modules that may be changed; `null` or left out for all. */
  readonly targetModules?: TargetModules | null;
  /** Other names of modules in PEFT files. */
  readonly aliases?: readonly ModuleAlias[];
}

export interface PlacedDelta extends LoraDelta {
  readonly module: SiteModule;
}

export interface PlacedReplacement extends Replacement {
  readonly module: SiteModule;
}

/**
 * @param placed in any order, shapes checked, at least one
 * @param replaced in any order, shapes checked
 * @throws {AdapterError} `adapter_unsupported` or `adapter_too_large` for what the server's settings leave out
 */
export function assembleAdapter(
  placed: readonly PlacedDelta[],
  program: Program,
  limits: AdapterLimits,
  about: Pick<AdapterReport, "format" | "scaleRule" | "warnings" | "invocation">,
  replaced: readonly PlacedReplacement[] = [],
): AdapterWeights {
  for (const delta of placed) checkLimits(delta, program, limits);
  for (const { site, module, form } of replaced) if (form !== "base_copies") checkAllowed(site, module, program, limits);
  const ordered = placed.toSorted((x, y) => x.site - y.site || x.offset - y.offset || x.width - y.width);
  const deltas = ordered.map(({ module: _module, ...delta }): LoraDelta => delta);
  const inOrder = replaced.toSorted((x, y) => x.site - y.site || kindOf(x) - kindOf(y) || firstRow(x) - firstRow(y));
  const replacements = inOrder.map(({ module: _module, ...replacement }): Replacement => replacement);
  const ranks = deltas.map((delta) => delta.rank);
  const report: AdapterReport = {
    ...about,
    numModules: deltas.length,
    modules: summarizeModules(ordered.map(({ module, rank, scale }) => ({ path: module.path, rank, scale }))),
    maxRank: Math.max(...ranks),
    minRank: Math.min(...ranks),
    ...(replaced.length === 0 ? {} : { replaced: summarizeReplaced(inOrder) }),
    dtypes: [...new Set([...deltas.flatMap(({ a, b }) => [a.dtype, b.dtype]), ...replacements.map(({ values }) => values.dtype)])].sort(),
    numBytes:
      deltas.reduce((sum, { a, b, bias, magnitude }) => sum + a.bytes.length + b.bytes.length + (bias?.byteLength ?? 0) + (magnitude?.byteLength ?? 0), 0) +
      replacements.reduce((sum, { values }) => sum + values.bytes.length, 0),
  };
  const forms: AdapterForm[] = [];
  if (deltas.some(({ magnitude }) => magnitude !== undefined)) forms.push("dora");
  if (deltas.some(({ bias }) => bias !== undefined)) forms.push("lora_bias");
  for (const [kind, form] of [["head", "head_lora"], ["embedding", "embedding_lora"]] as const) {
    if (deltas.some(({ site }) => program.sites[site]!.kind === kind)) forms.push(form);
  }
  forms.push(...REPLACED_FORMS.filter((each) => replacements.some(({ form }) => form === each)));
  const digest = adapterDigest(deltas, replacements, program, about.invocation);
  return { digest, deltas, ...(replacements.length === 0 ? {} : { replacements }), forms, report };
}

const REPLACED_FORMS: readonly Replacement["form"][] = ["modules_to_save", "trainable_tokens", "base_bias", "base_copies"];

/** Biases behind weights, and rows one by one in front. */
const kindOf = ({ part, rows }: Replacement): number => (part === "bias" ? 2 : typeof rows === "number" ? 1 : 0);
const firstRow = ({ rows }: Replacement): number => (typeof rows === "number" ? rows : rows[0]!);

function checkAllowed(site: SiteId, module: SiteModule, program: Program, limits: AdapterLimits): void {
  if (limits.targetModules != null && !isAllowed(program.sites[site]!, module, limits.targetModules)) {
    throw new AdapterError("adapter_unsupported", `module ${module.path} is changed, which lora_target_modules leaves out`, {
      field: "lora_target_modules",
    });
  }
}

function checkLimits({ site, module, rank }: PlacedDelta, program: Program, limits: AdapterLimits): void {
  checkAllowed(site, module, program, limits);
  if (limits.maxRank !== undefined && rank > limits.maxRank) {
    const field = limits.maxRankSetting ?? "max_lora_rank";
    throw new AdapterError("adapter_too_large", `module ${module.path} has rank ${rank}, above the limit of ${limits.maxRank}; raise ${field}`, {
      field,
    });
  }
}

/** @throws {AdapterError} `adapter_invalid` for what is not a matrix of finite numbers */
export function matrixOf(name: string, { dtype, shape, bytes }: Tensor): AdapterMatrix {
  if (shape.length !== 2 || shape[0] === 0 || shape[1] === 0) {
    throw new AdapterError("adapter_invalid", `tensor ${quoted(name)} must be a matrix, got shape [${shape.join(", ")}]`);
  }
  const matrix = { dtype, rows: shape[0]!, cols: shape[1]!, bytes };
  const bad = firstNonFinite(dtype, bytes);
  if (bad !== null) {
    throw new AdapterError(
      "adapter_invalid",
      `tensor ${quoted(name)} has a value that is not finite at row ${Math.floor(bad / matrix.cols)}, column ${bad % matrix.cols}`,
    );
  }
  return matrix;
}

/** @throws {AdapterError} `adapter_invalid` for what is not a vector of finite numbers */
export function vectorOf(name: string, { dtype, shape, bytes }: Tensor): Float32Array {
  // Older versions kept vectors as a matrix of one row or column.
  const length = shape.reduce((product, size) => product * size, 1);
  if (length === 0 || shape.length === 0 || !shape.includes(length)) {
    throw new AdapterError("adapter_invalid", `tensor ${quoted(name)} must be a vector, got shape [${shape.join(", ")}]`);
  }
  const bad = firstNonFinite(dtype, bytes);
  if (bad !== null) throw new AdapterError("adapter_invalid", `tensor ${quoted(name)} has a value that is not finite at ${bad}`);
  const { buffer } = new Uint8Array(bytes);
  switch (dtype) {
    case "F32":
      return new Float32Array(buffer);
    case "F16":
      return Float32Array.from(new Float16Array(buffer));
    case "BF16":
      return new Float32Array(Uint32Array.from(new Uint16Array(buffer), (bits) => bits << 16).buffer);
  }
}
