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
export function isSaved({ modulesToSave }: Pick<AdapterConfig, "modulesToSave">, { path }: SiteModule, { parameter }: LoraSite): boolean {
  if (modulesToSave.length === 0) return false;
  const isNamed = (whole: string): boolean => {
    for (let end = whole.length; end > 0; end = whole.lastIndexOf(".", end - 1)) {
      const around = whole.slice(0, end);
      if (modulesToSave.some((name) => around.endsWith(name))) return true;
    }
    return false;
  };
  return isNamed(path) || (parameter !== undefined && isNamed(ownerOf(parameter)));
}

/** Names that are of no module of this base: PEFT passes over them too, and names those of classifiers by itself. */
export const unknownModules = ({ modulesToSave }: Pick<AdapterConfig, "modulesToSave">, { sites }: Program): readonly string[] =>
  modulesToSave
    .filter((name) => !sites.some((site) => site.modules.some((module) => isSaved({ modulesToSave: [name] }, module, site))))
    .map((name) => `adapter_config.json names ${quoted(name)} in modules_to_save, which is no module of this base`);
