/** Tensors of a PEFT file, each beside the place in the base that it is for. */
import { AdapterError } from "../core/errors.ts";
import { quoted } from "../formats/format-error.ts";
import type { Tensor } from "../formats/safetensors.ts";
import type { LoraSite, Program, SiteId, SiteModule } from "../model/program.ts";
import { moduleNames } from "./module-match.ts";
import { isForTraining, parsePeftKey, type PeftKey } from "./peft-keys.ts";

export interface ModulePlace {
  readonly id: SiteId;
  readonly site: LoraSite;
  readonly module: SiteModule;
}

export interface PlacedTensor extends Pick<PeftKey, "part" | "ofEmbedding"> {
  readonly name: string;
  readonly tensor: Tensor;
  readonly place: ModulePlace;
}

/** @throws {AdapterError} naming the tensor that means nothing, or whose module the base does not have */
export function placeTensors(tensors: ReadonlyMap<string, Tensor>, program: Program): readonly PlacedTensor[] {
  if (tensors.size === 0) throw new AdapterError("adapter_invalid", "the adapter's file holds no tensors");
  const places = new Map(
    program.sites.flatMap((site, id) => site.modules.map((module): [string, ModulePlace] => [module.path, { id, site, module }])),
  );
  return [...tensors].filter(([name]) => !isForTraining(name)).map(([name, tensor]) => {
    const { module, part, ofEmbedding } = parsePeftKey(name, (path) => places.has(path));
    const place = places.get(module);
    if (place !== undefined) return { name, tensor, place, part, ofEmbedding };
    throw new AdapterError(
      "adapter_invalid",
      `tensor ${quoted(name)} is for module ${quoted(module)}, which the base model does not have; ` +
        `it has ${places.size === 0 ? "none" : `${numLayers(program)} layers with ${moduleNames(program.sites).join(", ")}`}`,
    );
  });
}

const numLayers = ({ sites }: Program): number => Math.max(...sites.map(({ layer }) => layer)) + 1;
