/** One JSON line for each answer, at its end. */
import type { Log } from "../dependencies.ts";
import { timelineOf } from "../openai/timeline.ts";
import { requestIdOf } from "../request-id.ts";
import type { AnswerRecord } from "./answer-record.ts";

export function logAnswer(log: Log, record: AnswerRecord): void {
  const { requestId, route, client, model, adapter, isStream: stream, durationMs, usage, finishes, error } = record;
  const finish = finishes.map((each) => each?.reason ?? null);
  const timeline = finishes.map((each) => (each === null ? null : timelineOf(each.timing)));
  log.info(
    {
      requestId, route, client: client === "" ? null : client, model, adapter, stream,
      durationMs: Math.round(durationMs * 1000) / 1000,
      promptTokens: usage.promptTokens,
      completionTokens: usage.completionTokens,
      finish, timeline, error,
    },
    error === null ? "answered" : "not answered",
  );
}

/** Answers tell of themselves at their end; what a person must see of the rest is what was refused. */
export function logResponse(log: Log, request: Request, status: number, elapsedMs: number): void {
  // A Host header of nonsense makes a URL that cannot be read.
  const pathname = URL.parse(request.url)?.pathname ?? "";
  const fields = { requestId: requestIdOf(request), method: request.method, path: pathname.slice(0, 200), status, elapsedMs: Math.round(elapsedMs * 1000) / 1000 };
  if (status >= 400) log.info(fields, "refused");
  else log.debug(fields, "responded");
}
