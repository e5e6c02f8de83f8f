/** `POST /v1/completions`. */
import { Elysia } from "elysia";
import type { Tokenizer } from "../../model/tokenizer.ts";
import { promptTokens } from "../../runtime/requests.ts";
import type { HttpDependencies } from "../dependencies.ts";
import { readJsonBody } from "../json-body.ts";
import { type PromptInput, readCompletionBody } from "../openai/completion-body.ts";
import { CompletionFormat } from "../openai/completion-format.ts";
import { answerRequest, refuseWhileDraining } from "./answer-request.ts";

export const completionRoutes = (deps: HttpDependencies) =>
  new Elysia().post(
    "/v1/completions",
    async ({ request }) => {
      refuseWhileDraining(deps);
      const body = readCompletionBody(await readJsonBody(request, deps.bodyLimits));
      const { model } = deps.runtime;
      const prompts = body.prompts.map((prompt) => promptTokens(model, prompt, body.addSpecialTokens));
      return answerRequest(deps, request, {
        body,
        prompts,
        ...(body.echo ? { prefixOf: (i, tokens) => promptText(model.tokenizer, body.prompts[i]!, tokens.length === prompts[i]!.length, tokens) } : {}),
        idPrefix: "cmpl",
        formatOf: (context) => new CompletionFormat(context),
      });
    },
    { parse: "none" },
  );

/** A prompt as its client wrote it, or the text of what is left of it. */
function promptText(tokenizer: Tokenizer | null, prompt: PromptInput, isWhole: boolean, tokens: readonly number[]): string {
  if (typeof prompt === "string" && isWhole) return prompt;
  return tokenizer?.decode(tokens, { skipSpecialTokens: true }) ?? "";
}
