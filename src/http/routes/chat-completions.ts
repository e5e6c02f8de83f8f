/** `POST /v1/chat/completions`. */
import { Elysia } from "elysia";
import { checkTokenIds } from "../../runtime/requests.ts";
import type { HttpDependencies } from "../dependencies.ts";
import { readJsonBody } from "../json-body.ts";
import { readChatBody } from "../openai/chat-body.ts";
import { expectedCalls } from "../openai/expected-calls.ts";
import { ChatFormat } from "../openai/chat-format.ts";
import { answerRequest, refuseWhileDraining } from "./answer-request.ts";

export const chatCompletionRoutes = (deps: HttpDependencies) =>
  new Elysia().post(
    "/v1/chat/completions",
    async ({ request }) => {
      refuseWhileDraining(deps);
      const body = readChatBody(await readJsonBody(request, deps.bodyLimits));
      const calls = expectedCalls(body.tools, deps.runtime.model.chatTemplate?.source ?? "");
      const tokens = deps.encodeChat(body.messages, {
        addGenerationPrompt: body.addGenerationPrompt,
        tools: calls === null ? null : body.tools.offered.map(({ written }) => written),
        documents: body.documents,
        extra: body.templateVariables,
      });
      return answerRequest(deps, request, {
        // Marks of calls may be special tokens.
        body: calls?.type === "form" ? { ...body, params: { ...body.params, skipSpecialTokens: false } } : body,
        prompts: [checkTokenIds(tokens, deps.runtime.model.program.vocabSize, "messages")],
        idPrefix: "chatcmpl",
        formatOf: (context) => new ChatFormat(context, calls),
      });
    },
    { parse: "none" },
  );
