import { describe, expect, test } from "bun:test";
import { basename, join } from "node:path";
import { ModelError } from "../../src/core/errors.ts";
import { loadModel } from "../../src/model/load-model.ts";
import { layerSites } from "../../src/model/program.ts";
import {
  encodeSafetensors,
  tensorsOf,
  tinyConfig,
  writeDirectory,
} from "../helpers/model-files.ts";

const REPOSITORY = join(import.meta.dir, "../..");

async function rejectionOf(promise: Promise<unknown>): Promise<ModelError> {
  return (await promise.then(
    () => expect.unreachable("the model was expected to be refused"),
    (thrown: unknown) => thrown,
  )) as ModelError;
}

describe("loadModel", () => {
  test("opens the demo model with tokenizer, chat template and end tokens", async () => {
    const model = await loadModel(join(REPOSITORY, "models/demo"));
    expect(model.name).toBe("demo");
    expect(model.program).toMatchObject({
      numLayers: 6,
      hiddenSize: 256,
      vocabSize: 4096,
      maxContext: 1024,
    });
    expect(layerSites(model.program).length).toBe(24);
    // Embedding, head, the last norm and two norms a layer.
    expect(model.program.sites.length).toBe(24 + 3 + 12);
    expect(model.generation.eosTokenIds).toEqual([1, 4]);
    expect(model.tokenizer?.vocabSize).toBe(2320);
    expect(model.chatTemplate).not.toBeNull();
    const norm = new Uint8Array(512);
    model.weights.readRows("model.norm.weight", 0, 256, norm);
    expect(norm.some((byte) => byte !== 0)).toBe(true);
  });

  test.each(["base_llama", "base_phi3", "base_mixtral"])("opens %s, which has no tokenizer", async (name) => {
    const model = await loadModel(join(REPOSITORY, "test/fixtures/peft", name));
    expect(model).toMatchObject({ name, tokenizer: null, chatTemplate: null });
    expect(model.program).toMatchObject({ numLayers: 2, hiddenSize: 32, vocabSize: 97 });
    expect(model.generation.eosTokenIds).toEqual([2]);
  });

  test("takes the name that it is given, or the directory's last part", async () => {
    const config = tinyConfig();
    const directory = writeDirectory({
      "config.json": config,
      "model.safetensors": encodeSafetensors(tensorsOf(config)),
    });
    expect((await loadModel(`${directory}/`)).name).toBe(basename(directory));
    expect((await loadModel(directory, { name: "served" })).name).toBe("served");
  });

  test("refuses a directory that is not there", async () => {
    const thrown = await rejectionOf(loadModel(join(REPOSITORY, "models/none")));
    expect(thrown).toBeInstanceOf(ModelError);
    expect(thrown.message).toContain("is not a directory; give one that holds a model's files");
  });

  test("refuses weights that do not belong to the configuration", async () => {
    const weights = encodeSafetensors(tensorsOf(tinyConfig()));
    const directory = writeDirectory({
      "config.json": tinyConfig({ num_hidden_layers: 1 }),
      "model.safetensors": weights,
    });
    const thrown = await rejectionOf(loadModel(directory));
    expect(thrown.errorCode).toBe("model_invalid");
    expect(thrown.message).toContain("hold tensor model.layers.1.");
  });
});
