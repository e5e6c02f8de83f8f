/** A runtime in this process: what `throughput` and `latency` measure. */
import type { AdapterId } from "../../core/ids.ts";
import { libraryDefaults, prepareRequests, promptTokens } from "../../runtime/requests.ts";
import type { AdapterReference, Runtime } from "../../runtime/runtime.ts";
import type { Target } from "./target.ts";

/** @throws {AdapterError} `adapter_not_found` */
export async function runtimeTarget(runtime: Runtime, references: readonly AdapterReference[]): Promise<Target> {
  const ids: AdapterId[] = [];
  for (const reference of references) ids.push(await runtime.resolveAdapter(reference, "program"));
  return {
    model: runtime.model.name,
    adapters: references.map(({ name }) => name),
    async send({ prompt, outputTokens, adapter }, onTokens, signal) {
      const tokens = promptTokens(runtime.model, prompt);
      const [request] = prepareRequests(runtime, {
        prompts: [tokens],
        adapter: adapter === null ? null : ids[adapter]!,
        params: { maxTokens: outputTokens, temperature: 0, ignoreEos: true },
        defaults: libraryDefaults,
        fieldName: (field) => (field === "maxTokens" ? "output_tokens" : field),
      });
      const generation = runtime.generate(request!);
      const cancel = (): void => generation.cancel();
      signal.addEventListener("abort", cancel, { once: true });
      let text = "";
      let generated = 0;
      try {
        for await (const event of generation) {
          text += event.text;
          if (event.tokens.length > 0) onTokens(event.tokens.length);
          generated += event.tokens.length;
          const reason = event.finish?.reason ?? "length";
          if (reason !== "length" && reason !== "stop") throw event.finish!.error ?? new Error(`the generation ended early: ${reason}`);
        }
      } finally {
        signal.removeEventListener("abort", cancel);
      }
      return { promptTokens: tokens.length, outputTokens: generated, text };
    },
    async counters() {
      const { adapterLoads, adapterEvictions, usedSlots, steps, preemptions, stepComputeMs } = runtime.stats();
      return { adapterLoads, adapterEvictions, slotsUsed: usedSlots, steps, preemptions, computeMs: stepComputeMs };
    },
  };
}
