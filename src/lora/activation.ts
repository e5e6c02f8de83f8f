/** From where on an activated adapter acts. */

/**
 * @param prompt of which the first `promptLength` count: what is generated activates nothing
 * @returns first position of the last occurrence of `invocation`; `Infinity` without one, where the base model alone answers
 * @source Greenewald et al., Activated LoRA, arXiv:2504.12397; PEFT 0.21, `calculate_alora_offsets`
 * @complexity O(promptLength · invocation), from the end
 */
export function activationOf(invocation: readonly number[], prompt: ArrayLike<number>, promptLength: number): number {
  for (let start = promptLength - invocation.length; start >= 0; start--) {
    if (invocation.every((id, i) => prompt[start + i] === id)) return start;
  }
  return Infinity;
}
