/** An answer in one piece. */
import type { SampledToken } from "../core/sampling.ts";
import type { Answer } from "./answer.ts";
import type { Choices } from "../runtime/requests.ts";
import type { WholeChoice } from "./openai/answer-format.ts";
import { serverTiming } from "./openai/timeline.ts";

/**
 * @param choices of the generations of a prompt, which are neighbours, the likeliest are given
 * @param headers asked for at the end
 * @throws {LorikeetError} when a generation failed
 */
export async function sendWhole(answer: Answer, { numWanted, numGenerated }: Choices, headers: () => Readonly<Record<string, string>>): Promise<Response> {
  const choices = answer.generations.map(() => ({
    text: "",
    tokens: [] as SampledToken[],
    prompt: null as WholeChoice["prompt"],
    finishReason: "",
    stopReason: null as WholeChoice["stopReason"],
  }));
  for (let events = await answer.next(); events.length > 0; events = await answer.next()) {
    for (const { choice, event } of events) {
      const whole = choices[choice]!;
      whole.text += event.text;
      for (const token of event.tokens) whole.tokens.push(token);
      whole.prompt ??= event.prompt ?? null;
      if (event.finish === null) continue;
      whole.finishReason = event.finish.reason;
      whole.stopReason = event.finish.stopReason;
    }
  }
  const timing = serverTiming(answer.timings);
  const given = numWanted === numGenerated ? choices : bestOfEach(choices, numWanted, numGenerated);
  return Response.json(answer.format.whole(given, answer.usage), {
    headers: { ...headers(), ...(timing === null ? {} : { "server-timing": timing }) },
  });
}

function bestOfEach(choices: readonly WholeChoice[], numWanted: number, numGenerated: number): WholeChoice[] {
  const likelihood = ({ tokens }: WholeChoice): number => tokens.reduce((sum, { logprob }) => sum + logprob, 0);
  const best: WholeChoice[] = [];
  for (let at = 0; at < choices.length; at += numGenerated) {
    const ofPrompt = choices.slice(at, at + numGenerated).map((choice) => ({ choice, sum: likelihood(choice) }));
    ofPrompt.sort((a, b) => b.sum - a.sum);
    best.push(...ofPrompt.slice(0, numWanted).map(({ choice }) => choice));
  }
  return best;
}
