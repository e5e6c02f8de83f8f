/** `POST /v1/completions`. */
import { Elysia } from "elysia";
import { promptTokens, resolveChoices } from "../../runtime/requests.ts";
import type { HttpDependencies } from "../dependencies.ts";
import { readJsonBody } from "../json-body.ts";
import { type CompletionBody, readCompletionBody } from "../openai/completion-body.ts";
import type { AnswerContext } from "../openai/answer-format.ts";
import { type CompletionEcho, CompletionFormat } from "../openai/completion-format.ts";
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
        idPrefix: "cmpl",
        formatOf: (context) => new CompletionFormat(context, body.echo ? echoOf(body, prompts, context) : null),
      });
    },
    { parse: "none" },
  );

/** Each prompt as its client wrote it, or the text of the tokens that are left of it. */
function echoOf(body: CompletionBody, prompts: readonly (readonly number[])[], { tokenizer, promptOf }: AnswerContext): CompletionEcho {
  const { numWanted } = resolveChoices(body.params);
  const textOf = (choice: number): string => {
    const at = Math.floor(choice / numWanted);
    const prompt = body.prompts[at]!;
    const tokens = promptOf(choice);
    if (typeof prompt === "string" && tokens.length === prompts[at]!.length) return prompt;
    return tokenizer?.decode(tokens, { skipSpecialTokens: true }) ?? "";
  };
  return { textOf, isAll: body.asksNothing };
}
