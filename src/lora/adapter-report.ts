/** What a load found and will do: the proof that an adapter is applied, for logs, listings and people. */
import { type Program, routerSites } from "../model/program.ts";
import type { AdapterMatrix, AdapterWeights, Replacement } from "./adapter-weights.ts";

/** All modules of one name, such as `q_proj`, over all layers. */
export interface ModuleReport {
  readonly name: string;
  readonly numModules: number;
  readonly minRank: number;
  readonly maxRank: number;
  readonly minScale: number;
  readonly maxScale: number;
}

/** Weights or biases of all modules of one name, or rows of their tokens. */
export interface ReplacedReport {
  readonly name: string;
  readonly form: Replacement["form"];
  readonly part: Replacement["part"];
  readonly numModules: number;
  /** Over all of them: outputs, tokens, or numbers of a vector. */
  readonly numRows: number;
}

export interface AdapterReport {
  readonly format: "peft" | "nemo";
  /** Module paths that the adapter changes. */
  readonly numModules: number;
  readonly modules: readonly ModuleReport[];
  /** What the adapter has in place of the base's own; left out for nothing. */
  readonly replaced?: readonly ReplacedReport[];
  readonly maxRank: number;
  readonly minRank: number;
  /** `1` for archives that state no alpha. */
  readonly scaleRule: "alpha/rank" | "alpha/sqrt(rank)" | "1";
  /** Formats of the matrices as stored, each once. */
  readonly dtypes: readonly AdapterMatrix["dtype"][];
  /** Bytes of all matrices as stored, and of vectors in float32. */
  readonly numBytes: number;
  /** Token ids from whose last occurrence in a prompt on it acts (activated LoRA); left out where it acts on every token. */
  readonly invocation?: readonly number[];
  /** What was rounded, ignored, or is worth telling otherwise, a sentence each. What cannot be served at all fails the load. */
  readonly warnings: readonly string[];
}

export interface ReportedModule {
  readonly path: string;
  readonly rank: number;
  readonly scale: number;
}

/** One entry per last part of the modules' paths, in the order of their first appearance. */
export const summarizeModules = (modules: readonly ReportedModule[]): ModuleReport[] =>
  [...Map.groupBy(modules, ({ path }) => nameOf(path))].map(([name, list]) => {
    const ranks = list.map(({ rank }) => rank);
    const scales = list.map(({ scale }) => scale);
    return {
      name,
      numModules: list.length,
      minRank: Math.min(...ranks),
      maxRank: Math.max(...ranks),
      minScale: Math.min(...scales),
      maxScale: Math.max(...scales),
    };
  });

/** One entry per name, form and part, in the order of their first appearance. */
export const summarizeReplaced = (replaced: readonly (Replacement & { readonly module: { readonly path: string } })[]): ReplacedReport[] =>
  [...Map.groupBy(replaced, ({ module, form, part }) => `${nameOf(module.path)} ${form} ${part}`).values()].map((list) => ({
    name: nameOf(list[0]!.module.path),
    form: list[0]!.form,
    part: list[0]!.part,
    numModules: list.length,
    numRows: list.reduce((sum, { values }) => sum + values.rows, 0),
  }));

const nameOf = (path: string): string => path.slice(path.lastIndexOf(".") + 1);

/** How a device holds the matrices of adapters, but for routers of their own, which stay float32. */
export interface DeviceNumbers {
  /** Formats that lose nothing there. */
  readonly keeps: readonly AdapterMatrix["dtype"][];
  /** What others become. */
  readonly roundsTo: string;
}

/** The report on one device, which may round what the files hold. */
export function reportOn({ report, deltas, replacements = [] }: Pick<AdapterWeights, "report" | "deltas" | "replacements">, program: Program, { keeps, roundsTo }: DeviceNumbers): AdapterReport {
  const routers = routerSites(program);
  // Biases and norms are vectors, which no device rounds.
  const own = replacements.flatMap(({ site, values }) => (routers.has(site) || values.cols === 1 ? [] : [values]));
  const held = new Set([...deltas.flatMap(({ a, b }) => [a, b]), ...own].map(({ dtype }) => dtype));
  const lossy = report.dtypes.filter((dtype) => held.has(dtype) && !keeps.includes(dtype));
  if (lossy.length === 0) return report;
  return { ...report, warnings: [...report.warnings, `matrices in ${lossy.join(" and ")} are rounded to ${roundsTo} on this device`] };
}

/** A line per fact, for people: label and value. */
export function describeReport(report: AdapterReport): (readonly [label: string, value: string])[] {
  const { format, numModules, modules, replaced = [], minRank, maxRank, scaleRule, dtypes, numBytes, invocation, warnings } = report;
  const scales = modules.flatMap(({ minScale, maxScale }) => [minScale, maxScale]);
  return [
    ["format", format === "peft" ? "PEFT" : "NeMo"],
    ["modules", `${numModules}: ${modules.map((each) => `${each.name} in ${each.numModules}`).join(", ")}`],
    ...(replaced.length === 0 ? [] : [["replaced", replaced.map(describeReplaced).join(", ")] as const]),
    ["rank", range(minRank, maxRank)],
    ["scale", `${range(Math.min(...scales), Math.max(...scales))} (${scaleRule})`],
    ["numbers", `${dtypes.join(", ")}, ${numBytes} bytes`],
    ...(invocation === undefined ? [] : [["acts", `from the last ${invocation.join(" ")} of a prompt's token ids on, and not without`] as const]),
    ...warnings.map((warning) => ["note", warning] as const),
  ];
}

const describeReplaced = ({ name, form, part, numModules, numRows }: ReplacedReport): string => {
  const of = form === "trainable_tokens" ? `${numRows} tokens of ${name}` : `${part === "bias" ? "bias of " : ""}${name}${numModules === 1 ? "" : ` in ${numModules}`}`;
  return `${of} (${form})`;
};

const range = (min: number, max: number): string => (min === max ? shown(min) : `${shown(min)} to ${shown(max)}`);
const shown = (value: number): string => String(Number(value.toPrecision(6)));
