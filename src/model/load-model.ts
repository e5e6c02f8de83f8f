/** Opens a model directory: everything that does not depend on the backend. */
import { statSync } from "node:fs";
import { basename, resolve } from "node:path";
import { ModelError } from "../core/errors.ts";
import { quoted } from "../formats/format-error.ts";
import { type ChatTemplate, loadChatTemplate } from "./chat-template.ts";
import { checkWeights } from "./check-weights.ts";
import { buildDecoderProgram } from "./decoder-program.ts";
import { readGenerationDefaults } from "./generation-config.ts";
import { loadTokenizer } from "./load-tokenizer.ts";
import { type ModelConfig, readModelConfig } from "./model-config.ts";
import type { Program } from "./program.ts";
import { expertSpelling } from "./sparse-mlp.ts";
import type { Tokenizer } from "./tokenizer.ts";
import type { WeightSource } from "./weight-source.ts";
import { openCheckpoint } from "./weights.ts";

export interface LoadedModel {
  /** Name to serve under: the directory's last part unless configured. */
  readonly name: string;
  readonly directory: string;
  readonly config: ModelConfig;
  readonly program: Program;
  readonly weights: WeightSource;
  /** `null` when the directory has no tokenizer: prompts must then be token ids. */
  readonly tokenizer: Tokenizer | null;
  /** `null` when the model has none: chat is then refused. */
  readonly chatTemplate: ChatTemplate | null;
  readonly generation: GenerationDefaults;
}

/** `generation_config.json`, falling back to `config.json`. */
export interface GenerationDefaults {
  readonly eosTokenIds: readonly number[];
}

/**
 * Reads configuration, tokenizer and chat template, builds the program, and opens the weights without reading
 * them: a backend does that while it opens.
 *
 * @param options.name instead of the directory's last part
 * @throws {ModelError} for a directory that does not hold a model that can be served
 */
export async function loadModel(
  directory: string,
  options: { readonly name?: string } = {},
): Promise<LoadedModel> {
  if (!statSync(directory, { throwIfNoEntry: false })?.isDirectory()) {
    throw new ModelError(
      "model_invalid",
      `the model ${quoted(directory)} is not a directory; give one that holds a model's files`,
    );
  }
  const { config, program, weights } = openModel(directory);
  const [tokenizer, chatTemplate] = await Promise.all([
    loadTokenizer(directory),
    loadChatTemplate(directory),
  ]);
  return {
    name: options.name ?? basename(resolve(directory)),
    directory,
    config,
    program,
    weights,
    tokenizer,
    chatTemplate,
    generation: readGenerationDefaults(directory, config.vocabSize),
  };
}

/** The program alone, with weights that are there and fit it. */
export function openModel(directory: string): Pick<LoadedModel, "config" | "program" | "weights"> {
  const config = readModelConfig(directory);
  const weights = openCheckpoint(directory);
  const program = buildDecoderProgram(config, expertSpelling(weights.tensorNames));
  checkWeights(program, weights);
  return { config, program, weights };
}
