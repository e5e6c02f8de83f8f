/** The grammars that one model's outputs are held to. */
import type { Backend } from "../backend/backend.ts";
import { RequestError } from "../core/errors.ts";
import type { Grammar, GrammarSpec } from "../core/grammar.ts";
import { Grammars } from "../grammar/grammars.ts";
import { grammarVocabulary } from "../grammar/vocabulary.ts";
import type { LoadedModel } from "../model/load-model.ts";

export interface ModelGrammars {
  /** @throws {RequestError} `invalid_request` for what is no grammar, or where this model's outputs cannot be held to one */
  compile(spec: GrammarSpec): Promise<Grammar>;
  close(): void;
}

/** The library is not loaded before the first grammar comes. */
export function modelGrammars({ tokenizer, program, generation }: LoadedModel, { info }: Pick<Backend, "info">): ModelGrammars {
  const { eosTokenIds } = generation;
  const grammars = new Grammars(() => grammarVocabulary(tokenizer!, program.vocabSize, eosTokenIds));
  return {
    async compile(spec) {
      if (info.allowsTokens !== true) throw refusal(`on the ${info.name} backend; serve with --backend wasm`);
      if (tokenizer === null) throw refusal("for a model without a tokenizer");
      if (eosTokenIds.length === 0) throw refusal("for a model without an end token");
      return grammars.compile(spec);
    },
    close: () => grammars.close(),
  };
}

const refusal = (where: string): RequestError => new RequestError("invalid_request", `structured output is not served ${where}`);
