/** Opens a model directory: everything that does not depend on the backend. */
import type { ChatTemplate } from "./chat-template.ts";
import type { ModelConfig } from "./model-config.ts";
import type { Program } from "./program.ts";
import type { Tokenizer } from "./tokenizer.ts";
import type { WeightSource } from "./weight-source.ts";

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
  readonly bosTokenId: number | null;
  readonly padTokenId: number | null;
}
