/**
 * What an adapter means on a base whose embedding and head are one matrix.
 *
 * PEFT changes the one that is named and leaves the other as it is, with three exceptions: `ensure_weight_tying`, which
 * trains both and saves both; rows of tokens, which are both's; and copies of the base's matrix, which is one.
 *
 * @source peft 0.21: tuners/tuners_utils.py `_check_tied_modules`, utils/other.py `set_additional_trainable_modules`
 */
import { AdapterError } from "../core/errors.ts";
import type { Program, SiteId } from "../model/program.ts";
import type { AdapterConfig } from "./adapter-config.ts";
import type { PlacedReplacement } from "./assemble-adapter.ts";
import { compilePattern } from "./module-match.ts";

export interface TiedSites {
  readonly embedding: SiteId;
  readonly head: SiteId;
}

/** @returns `null` where each has a matrix of its own */
export function tiedSites({ operations, sites }: Program): TiedSites | null {
  const embed = operations.find((operation) => operation.kind === "embed");
  const head = operations.find((operation) => operation.kind === "linear" && operation.site !== null && sites[operation.site]!.kind === "head");
  if (embed?.kind !== "embed" || head?.kind !== "linear" || embed.weight !== head.weight) return null;
  return { embedding: embed.site!, head: head.site! };
}

const EDGES = ["embed_tokens", "lm_head"];
const PATHS = ["model.embed_tokens", "lm_head"];

/** The configuration with what `ensure_weight_tying` adds to it. */
export function withTiedNames(config: AdapterConfig, program: Program): AdapterConfig {
  if (!config.ensureWeightTying || tiedSites(program) === null) return config;
  const namesEdge = (names: readonly string[]): boolean => names.some((name) => EDGES.includes(name.slice(name.lastIndexOf(".") + 1)));
  const { modulesToSave, targetModules } = config;
  if (namesEdge(modulesToSave)) return { ...config, modulesToSave: [...modulesToSave, ...PATHS] };
  if (targetModules.kind === "names" && namesEdge(targetModules.names)) {
    return { ...config, targetModules: { kind: "names", names: [...targetModules.names, ...PATHS] } };
  }
  if (targetModules.kind !== "pattern") return config;
  const pattern = compilePattern(targetModules.pattern, "target_modules");
  if (!EDGES.some((name) => pattern.matches(name))) return config;
  return { ...config, targetModules: { kind: "pattern", pattern: `(?:${targetModules.pattern})|model\\.embed_tokens|lm_head` } };
}

/** Whether the head's rows of tokens are the embedding's, so that a file has them once. */
export function sharesTokens({ trainedTokens }: AdapterConfig, program: Program): boolean {
  const listOf = (path: string): readonly number[] | undefined => [...trainedTokens].find(([name]) => path.endsWith(name))?.[1];
  const [embedding, head] = PATHS.map(listOf);
  return tiedSites(program) !== null && embedding !== undefined && (head === undefined || String(head) === String(embedding));
}

/** With what holds for the other of the two as well. */
export function withTiedRows(replacements: readonly PlacedReplacement[], config: AdapterConfig, program: Program): readonly PlacedReplacement[] {
  const tied = tiedSites(program);
  if (tied === null) return replacements;
  const added: PlacedReplacement[] = [];
  for (const each of replacements) {
    if (each.site !== tied.embedding && each.site !== tied.head) continue;
    const other = each.site === tied.embedding ? tied.head : tied.embedding;
    const ofOther = replacements.filter(({ site }) => site === other);
    if (each.form === "trainable_tokens" && other === tied.head && sharesTokens(config, program)) {
      if (ofOther.some(({ form }) => form === "modules_to_save")) {
        throw new AdapterError("adapter_unsupported", "adapter_config.json: modules_to_save has lm_head, whose rows trainable_token_indices replaces on this base; PEFT does not run such an adapter either", {
          field: "trainable_token_indices",
        });
      }
    } else if (each.form !== "base_copies" || ofOther.some(({ rows }) => typeof rows === "number")) continue;
    added.push({ ...each, site: other, module: program.sites[other]!.modules[0]! });
  }
  return [...replacements, ...added];
}
