/** Which modules of the base an adapter's configuration targets, and which pattern applies to each. */
import { RE2JS } from "re2js";
import { AdapterError } from "../core/errors.ts";
import { quoted } from "../formats/format-error.ts";
import type { LoraSite, Program, SiteModule } from "../model/program.ts";
import type { AdapterConfig, ModuleNames } from "./adapter-config.ts";
import { wholeModule } from "./expert-parameters.ts";
import { isSaved } from "./saved-modules.ts";

export interface TargetedModules {
  /** Paths of the base's own modules, and of other spellings where the configuration names those. */
  readonly paths: ReadonlySet<string>;
  /** Of these, what a complete file must hold tensors for. */
  readonly required: readonly RequiredModule[];
  /** What rank_pattern and alpha_pattern are compared with: a module's path, or its parameter's where that is targeted. */
  readonly patternKey: (path: string) => string;
}

export interface RequiredModule {
  readonly site: LoraSite;
  readonly module: SiteModule;
  /** What names it. */
  readonly field: "target_modules" | "target_parameters";
}

/** @throws {AdapterError} `adapter_invalid` for a pattern that cannot be read, or when nothing matches */
export function targetedModules(config: AdapterConfig, { sites }: Program): TargetedModules {
  const isTarget = matcher(withoutParameters(config), "target_modules");
  const isExcluded = config.excludeModules === null ? () => false : matcher(config.excludeModules, "exclude_modules");
  const isInLayers = layerFilter(config);
  const paths = new Set<string>();
  const required: RequiredModule[] = [];
  const parameters = new Map<string, string>();
  for (const site of sites) {
    for (const [parameter, module] of parametersOf(site)) {
      if (!config.targetParameters.some((name) => parameter === name || parameter.endsWith(`.${name}`))) continue;
      paths.add(module.path);
      required.push({ site, module, field: "target_parameters" });
      parameters.set(module.path, parameter);
    }
    if (site.kind === "norm" || (site.kind !== undefined && config.targetModules.kind === "all-linear")) continue;
    const matched = site.modules.filter((module) => isTarget(module) && !isExcluded(module) && isInLayers(module, site.layer) && !isSaved(config, module, site));
    for (const { path } of matched) paths.add(path);
    // Another spelling is only asked for where the base's own names are not targeted, excluded ones neither: `.*v_proj` is also a qkv_proj's.
    const speaksOwn = site.modules.some((module) => module.own && isTarget(module));
    for (const module of matched.filter(({ own }) => own || !speaksOwn)) required.push({ site, module, field: "target_modules" });
  }
  if (paths.size === 0) throw nothingMatches(config, sites);
  return { paths, required, patternKey: (path) => parameters.get(path) ?? path };
}

/** PEFT leaves a name in target_modules that it has turned into a parameter. */
function withoutParameters({ targetModules, targetParameters }: AdapterConfig): ModuleNames {
  if (targetModules.kind !== "names") return targetModules;
  return { kind: "names", names: targetModules.names.filter((name) => !targetParameters.includes(name)) };
}

/** Parameters that an adapter may name, with the module that means the same. */
function parametersOf(site: LoraSite): (readonly [parameter: string, module: SiteModule])[] {
  if (site.parameter !== undefined) return [[site.parameter, wholeModule(site)]];
  return site.modules.map((module) => [`${module.path}.weight`, module] as const);
}

function matcher(names: ModuleNames, field: string): (module: SiteModule) => boolean {
  switch (names.kind) {
    case "all-linear":
      return (module) => module.own;
    case "pattern": {
      const pattern = compilePattern(names.pattern, field);
      return ({ path }) => pattern.matches(path);
    }
    case "names":
      return ({ path }) => names.names.some((name) => path === name || path.endsWith(`.${name}`));
  }
}

/**
 * Whether `layers_to_transform` leaves a module in; one that target_modules names by its whole path always is.
 *
 * @source peft, tuners/tuners_utils.py check_target_module_exists
 */
function layerFilter({ layers, layersPattern, targetModules }: AdapterConfig): (module: SiteModule, layer: number) => boolean {
  if (layers === null) return () => true;
  const chosen = new Set(layers);
  const whole = new Set(targetModules.kind === "names" ? targetModules.names : []);
  const lists = layersPattern?.map((name) => compilePattern(`(?:^|.*?\\.)${name}\\.(?:\\d+)\\..*`, "layers_pattern", name));
  return ({ path }, layer) =>
    whole.has(path) || (chosen.has(layer) && (lists === undefined || lists.some((list) => list.matches(path))));
}

/**
 * The value of the first pattern that matches a module's path, as PEFT looks ranks and alphas up.
 *
 * @source peft, utils/other.py get_pattern_key: `(.*\.)?(PATTERN)$`
 */
export function patternLookup(
  entries: readonly (readonly [pattern: string, value: number])[],
  field: string,
): (path: string) => number | undefined {
  const compiled = entries.map(([pattern, value]) => ({ pattern: compilePattern(`(.*\\.)?(${pattern})`, field, pattern), value }));
  return (path) => compiled.find(({ pattern }) => pattern.matches(path))?.value;
}

/**
 * Patterns run in time linear in the path: an adapter's file cannot hang the server.
 *
 * @param written what the file has of it
 */
export function compilePattern(pattern: string, field: string, written = pattern): RE2JS {
  try {
    return RE2JS.compile(pattern);
  } catch (cause) {
    throw new AdapterError(
      "adapter_invalid",
      `adapter_config.json: ${field} has the pattern ${quoted(written)}, which cannot be read; use regular expressions without look-around and back-references`,
      { field, cause },
    );
  }
}

function nothingMatches({ targetModules, targetParameters }: AdapterConfig, sites: readonly LoraSite[]): AdapterError {
  const wanted =
    targetModules.kind === "names"
      ? [...targetModules.names, ...targetParameters].slice(0, 8).join(", ")
      : targetModules.kind === "pattern"
        ? targetModules.pattern.slice(0, 80)
        : "all-linear";
  return new AdapterError(
    "adapter_invalid",
    `the adapter targets ${wanted}, which matches no module of the base model; its modules are ${moduleNames(sites).join(", ")}`,
    { field: "target_modules" },
  );
}

/** Last parts of the base's own module paths that may have LoRA, once each. */
export const moduleNames = (sites: readonly LoraSite[]): string[] => [
  ...new Set(sites.filter(({ kind }) => kind !== "norm").flatMap((site) => site.modules.filter(({ own }) => own).map(({ path }) => path.split(".").at(-1)!))),
];
