/** From a parsed body to its answer: the way that completions and chat share. */
import { CapacityError, RequestError, toLorikeetError } from "../../core/errors.ts";
import type { Grammar } from "../../core/grammar.ts";
import type { GenerationRequest } from "../../core/request.ts";
import type { Generation, Runtime } from "../../runtime/runtime.ts";
import type { WantedGrammar } from "../openai/structured-output.ts";
import { bodyField, type CommonBody } from "../openai/common-body.ts";
import { generateAll, httpDefaults, prepareRequests, resolveChoices } from "../../runtime/requests.ts";
import { Answer } from "../answer.ts";
import { logFault } from "../log-fault.ts";
import { requestIdOf } from "../request-id.ts";
import type { HttpDependencies } from "../dependencies.ts";
import { sendEvents } from "../event-stream.ts";
import type { AnswerContext, AnswerFormat } from "../openai/answer-format.ts";
import { chooseAdapter } from "../openai/choose-adapter.ts";
import { sendWhole } from "../whole-answer.ts";

export interface Ask {
  readonly body: CommonBody;
  /** Token ids of each prompt, checked. */
  readonly prompts: readonly (readonly number[])[];
  readonly idPrefix: "cmpl" | "chatcmpl";
  readonly formatOf: (context: AnswerContext) => AnswerFormat;
}

/** Before the body is even read. @throws {CapacityError} `shutting_down` */
export function refuseWhileDraining({ health }: HttpDependencies): void {
  if (health.isDraining) {
    throw new CapacityError("shutting_down", "the server is shutting down; send the request again");
  }
}

/**
 * @param request whose signal, when its client leaves, ends every generation at once
 * @throws {LorikeetError} for everything that can be said before the first byte of the answer
 */
export async function answerRequest(deps: HttpDependencies, request: Request, ask: Ask): Promise<Response> {
  const { runtime, clock, metrics } = deps;
  const { body } = ask;
  const client = deps.access.tenantOf(request.headers);
  const { adapter, adapterName, toRequestError } = await chooseAdapter(runtime, deps.baseNames, body.model, body.loraRequest);
  const prompts = ask.prompts.map((prompt) =>
    body.truncatePromptTokens === null ? prompt : prompt.slice(-body.truncatePromptTokens),
  );
  const grammar = await compileWanted(runtime, body.wanted);
  const requests = prepareRequests(runtime, {
    prompts,
    adapter,
    grammar,
    timeoutMs: body.timeoutMs,
    priority: body.priority,
    cacheSalt: body.cacheSalt,
    tenant: client,
    params: body.params,
    defaults: httpDefaults,
    fieldName: bodyField,
  });
  const { numWanted, numGenerated } = resolveChoices(body.params, bodyField);
  const format = ask.formatOf({
    id: `${ask.idPrefix}-${crypto.randomUUID().replaceAll("-", "")}`,
    model: body.model,
    created: clock.unixSeconds(),
    tokenizer: runtime.model.tokenizer,
    withLogprobs: body.params.logprobs !== null,
    tokensAsIds: body.tokensAsIds,
    skipSpecialTokens: body.params.skipSpecialTokens ?? true,
    returnTokenIds: body.returnTokenIds,
    promptOf: (choice) => prompts[Math.floor(choice / numWanted)]!,
  });
  const startMs = clock.nowMs();
  const startUnixMs = Date.now();
  const answer = new Answer({
    generations: startAll(deps, client, requests),
    format,
    promptTokens: prompts.reduce((sum, prompt) => sum + prompt.length, 0),
    numGenerated,
    metrics,
    toRequestError,
    onFailure: (thrown) => logFault(deps, thrown, request),
    withTimeline: body.withTimeline,
    onEnd: (end) =>
      deps.onAnswer({
        ...end,
        requestId: requestIdOf(request),
        headers: request.headers,
        client,
        route: ask.idPrefix === "cmpl" ? "/v1/completions" : "/v1/chat/completions",
        model: body.model,
        adapter: adapterName,
        isStream: body.stream,
        startUnixMs,
        durationMs: clock.nowMs() - startMs,
      }),
  });
  if (request.signal.aborted) answer.cancel();
  request.signal.addEventListener("abort", () => answer.cancel(), { once: true });
  const onEnd = deps.keepOpen(request);
  const digest = () => (adapter === null ? null : runtime.adapterDigest(adapter));
  const headers = () => digestHeader(digest());
  if (!body.stream) return sendWhole(answer, { numWanted, numGenerated }, headers).finally(onEnd);
  // Headers that leave before the adapter was read could not say which one it is.
  const patience = adapter !== null && digest() === null ? LOAD_PATIENCE : 1;
  return sendEvents(answer, { ...body, ...deps, headersAfterMs: deps.headersAfterMs * patience, headers, onEnd });
}

/** @throws what `generateAll` throws */
function startAll({ runtime, clientMetrics }: HttpDependencies, client: string, requests: readonly GenerationRequest[]): Generation[] {
  try {
    return generateAll(runtime, requests);
  } catch (thrown) {
    clientMetrics.refuse(client, toLorikeetError(thrown).errorCode);
    throw thrown;
  }
}

async function compileWanted(runtime: Runtime, wanted: WantedGrammar | null): Promise<Grammar | null> {
  if (wanted === null) return null;
  try {
    return await runtime.compileGrammar(wanted.spec);
  } catch (thrown) {
    if (!(thrown instanceof RequestError)) throw thrown;
    throw new RequestError(thrown.errorCode, `${wanted.field} is not usable: ${thrown.message}`, { field: wanted.field, cause: thrown });
  }
}

/** How much longer a stream's headers wait for an adapter that was not read yet. */
const LOAD_PATIENCE = 10;

/** Which content answered, whatever its name means by then. */
export const DIGEST_HEADER = "x-lorikeet-adapter-digest";

const digestHeader = (digest: string | null): Readonly<Record<string, string>> => (digest === null ? {} : { [DIGEST_HEADER]: digest });
