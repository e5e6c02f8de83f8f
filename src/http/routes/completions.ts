/** `POST /v1/completions`. */
import { Elysia } from "elysia";
import { promptTokens } from "../../runtime/requests.ts";
import type { HttpDependencies } from "../dependencies.ts";
import { readJsonBody } from "../json-body.ts";
import { readCompletionBody } from "../openai/completion-body.ts";
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
        prompts: body.prompts.map((prompt) => promptTokens(deps.runtime.model, prompt, body.addSpecialTokens)),
        idPrefix: "cmpl",
        formatOf: (context) => new CompletionFormat(context),
      });
    },
    { parse: "none" },
  );
