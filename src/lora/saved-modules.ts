/** Modules that an adapter has whole, as `modules_to_save` names them. */
import { quoted } from "../formats/format-error.ts";
import type { Program, SiteModule } from "../model/program.ts";
import type { AdapterConfig } from "./adapter-config.ts";

/**
 * Whether a name is the end of the module's path, or of that of a module around it; of a part as well: `norm` is also
 * the end of `input_layernorm`.
 *
 * @source peft 0.21, utils/other.py `_set_trainable`
 */
export function isSaved({ modulesToSave }: Pick<AdapterConfig, "modulesToSave">, { path }: Pick<SiteModule, "path">): boolean {
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
    .filter((name) => !sites.some(({ modules }) => modules.some((module) => isSaved({ modulesToSave: [name] }, module))))
    .map((name) => `adapter_config.json names ${quoted(name)} in modules_to_save, which is no module of this base`);
