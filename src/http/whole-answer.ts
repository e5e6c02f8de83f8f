/** An answer in one piece. */
import type { SampledToken } from "../core/sampling.ts";
import type { Answer } from "./answer.ts";
import type { WholeChoice } from "./openai/answer-format.ts";
import { serverTiming } from "./openai/timeline.ts";

/**
 * @param headers asked for at the end
 * @throws {LorikeetError} when a generation failed
 */
export async function sendWhole(answer: Answer, headers: () => Readonly<Record<string, string>>): Promise<Response> {
  const choices = answer.generations.map(() => ({
    text: "",
    tokens: [] as SampledToken[],
    finishReason: "",
    stopReason: null as WholeChoice["stopReason"],
  }));
  for (let events = await answer.next(); events.length > 0; events = await answer.next()) {
    for (const { choice, event } of events) {
      const whole = choices[choice]!;
      whole.text += event.text;
      for (const token of event.tokens) whole.tokens.push(token);
      if (event.finish === null) continue;
      whole.finishReason = event.finish.reason;
      whole.stopReason = event.finish.stopReason;
    }
  }
  const timing = serverTiming(answer.timings);
  return Response.json(answer.format.whole(choices, answer.usage), {
    headers: { ...headers(), ...(timing === null ? {} : { "server-timing": timing }) },
  });
}
