/** Grows one sequence on a backend, the simplest way there is: for tests of numbers without a scheduler. */
import type { Backend } from "../../src/backend/backend.ts";
import { asPageId, NO_SLOT, type SlotId } from "../../src/core/ids.ts";
import type { SampledToken, Sampling } from "../../src/core/sampling.ts";

/**
 * @param forced tokens that are fed in place of the sampled ones: what a reference sampled
 * @param activeFrom first position with the slot; those before are the base model's
 */
export async function growGreedily(
  backend: Backend,
  prompt: readonly number[],
  slot: SlotId,
  sampling: Sampling,
  count: number,
  forced: readonly number[] = [],
  activeFrom = 0,
): Promise<SampledToken[]> {
  const sampled: SampledToken[] = [];
  let tokens = [...prompt];
  let position = 0;
  while (sampled.length < count) {
    const numPages = Math.ceil((position + tokens.length) / backend.info.pageTokens);
    const pages = Array.from({ length: numPages }, (_, i) => asPageId(i));
    const sample = { sampling, counter: sampled.length, adjustments: [] };
    const numBefore = Math.max(0, Math.min(tokens.length, activeFrom - position));
    const before = { tokens: tokens.slice(0, numBefore), position, pages, slot: NO_SLOT };
    const rest = { tokens: tokens.slice(numBefore), position: position + numBefore, pages, slot };
    const sequences = numBefore === 0 ? [{ ...rest, sample }] : numBefore === tokens.length ? [{ ...before, sample }] : [{ ...before, sample: null }, { ...rest, sample }];
    const result = await backend.run({ sequences });
    position += tokens.length;
    const token = result.sampled[0]!;
    if (token === null) throw new Error("logits are not finite");
    tokens = [forced[sampled.length] ?? token.id];
    sampled.push(token);
  }
  return sampled;
}
