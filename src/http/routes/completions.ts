/** `POST /v1/completions`. */
import { Elysia } from "elysia";
import { RequestError } from "../../core/errors.ts";
import { checkTokenIds } from "../../runtime/requests.ts";
import type { Runtime } from "../../runtime/runtime.ts";
import type { HttpDependencies } from "../dependencies.ts";
import { readJsonBody } from "../json-body.ts";
import { type CompletionBody, readCompletionBody } from "../openai/completion-body.ts";
import { CompletionFormat } from "../openai/completion-format.ts";
import { answerRequest, refuseWhileDraining } from "./answer-request.ts";

export const completionRoutes = (deps: HttpDependencies) =>
  new Elysia().post(
    "/v1/completions",
    async ({ request }) => {
      refuseWhileDraining(deps);
      const body = readCompletionBody(await readJsonBody(request, deps.bodyLimits));
      return answerRequest(deps, request, {
        body,
        prompts: promptTokens(deps.runtime, body),
        idPrefix: "cmpl",
        formatOf: (context) => new CompletionFormat(context),
      });
    },
    { parse: "none" },
  );

/** @throws {RequestError} `invalid_request` */
function promptTokens({ model }: Runtime, { prompts, addSpecialTokens }: CompletionBody): number[][] {
  const { tokenizer, program } = model;
  return prompts.map((prompt) => {
    if (typeof prompt !== "string") return checkTokenIds(prompt, program.vocabSize, "prompt");
    if (tokenizer === null) {
      throw new RequestError("invalid_request", "prompt must be token ids: the model has no tokenizer", { field: "prompt" });
    }
    return checkTokenIds(tokenizer.encode(prompt, { addSpecialTokens }), program.vocabSize, "prompt");
  });
}
