/** Modules that an adapter has whole, as `modules_to_save` names them. */
import { quoted } from "../formats/format-error.ts";
import type { LoraSite, Program, SiteModule } from "../model/program.ts";
import type { AdapterConfig } from "./adapter-config.ts";
import { ownerOf } from "./expert-parameters.ts";

/**
 * Whether a name is the end of the module's path, or of that of a module around it; of a part as well: `norm` is also
 * the end of `input_layernorm`. Around an expert is also what holds all experts in transformers 5.
 *
 * @source peft 0.21, utils/other.py `_set_trainable`
 */
export const isSaved = (config: Saved, { path }: SiteModule, { parameter }: LoraSite): boolean =>
  isNamed(config, path) || (parameter !== undefined && isNamed(config, ownerOf(parameter)));

/** Whether what holds all experts is saved, as against modules in each of them. */
export const areExpertsSaved = (config: Saved, { parameter, modules }: LoraSite): boolean =>
  [...modules.map(({ path }) => path.replace(/\.\d+\.\w+$/, "")), ...(parameter === undefined ? [] : [ownerOf(parameter)])].some((path) => isNamed(config, path));

type Saved = Pick<AdapterConfig, "modulesToSave">;

function isNamed({ modulesToSave }: Saved, path: string): boolean {
  if (modulesToSave.length === 0) return false;
  for (let end = path.length; end > 0; end = path.lastIndexOf(".", end - 1)) {
    const around = path.slice(0, end);
    if (modulesToSave.some((name) => around.endsWith(name))) return true;
  }
  return false;
}

/** Names that are of no module of this base: PEFT passes over them too, and names those of classifiers by itself. */
export const unknownModules = ({ modulesToSave }: Pick<AdapterConfig, "modulesToSave">, { sites }: Program): readonly string[] =>
  modulesToSave
    .filter((name) => !sites.some((site) => site.modules.some((module) => isSaved({ modulesToSave: [name] }, module, site))))
    .map((name) => `adapter_config.json names ${quoted(name)} in modules_to_save, which is no module of this base`);
