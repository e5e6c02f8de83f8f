"""Writes activated LoRA adapters (aLoRA) for the split base of make_forms.py, and what PEFT's generate makes of them.

    python make_activated.py BASE OUT

needs what make_architectures.py needs; BASE is the directory of that base, OUT lies beside its parent. Writes

    OUT/<adapter>/    adapter_config.json, adapter_model.safetensors
    OUT/golden.json   {name: {base, adapter, input_ids, last_logits, greedy, margin, active_from, versions}}

A case is a prompt of one adapter. `active_from` is the first position that the adapter changes, null for none. Every number
comes from PEFT's own generate, which looks for the invocation in the prompt only; that without a KV cache the same tokens and
logits come out, with the adapter masked by hand, is checked here.
"""

import os
import shutil
import sys

from reference import MIN_MARGIN, VOCAB, load_base, logits_of, write_golden

import torch
from make_architectures import load_adapter, make_adapter

NUM_GREEDY = 16

# adapter: (settings, dtype); token ids of the invocation are part of the settings
ADAPTERS = {
    "pair": (dict(r=4, lora_alpha=8, target_modules="all-linear", alora_invocation_tokens=[17, 5]), torch.float32),
    "triple": (
        dict(r=6, lora_alpha=9, use_rslora=True, target_modules=["q_proj", "v_proj", "down_proj"], lora_bias=True, alora_invocation_tokens=[9, 9, 30]),
        torch.float32,
    ),
    "single": (dict(r=3, lora_alpha=6, target_modules=["k_proj", "o_proj", "gate_proj"], alora_invocation_tokens=[44]), torch.bfloat16),
}
# case: (adapter, positions of the invocation in a prompt of 24 tokens)
CASES = {
    "pair_middle": ("pair", [11]),
    "pair_last_of_three": ("pair", [2, 8, 15]),
    "pair_from_the_start": ("pair", [0]),
    "pair_at_the_end": ("pair", [22]),
    "pair_cut_at_the_end": ("pair", []),
    "pair_absent": ("pair", []),
    # overlapping: 9 9 9 30 is the invocation from its second 9 on
    "triple_overlapping": ("triple", [10]),
    "triple_absent": ("triple", []),
    "single_middle": ("single", [9]),
    # generate looks at the prompt only: the token is sampled later on
    "single_again_in_the_answer": ("single", [6]),
}
NUM_PROMPT = 24


def prompt_of(case, invocation, positions, seed):
    generator = torch.Generator().manual_seed(seed)
    free = [token for token in range(3, VOCAB) if token not in invocation]
    prompt = [free[i] for i in torch.randint(0, len(free), (NUM_PROMPT,), generator=generator).tolist()]
    for position in positions:
        prompt[position : position + len(invocation)] = invocation
    if case == "pair_cut_at_the_end":
        prompt[-1] = invocation[0]
    if case == "triple_overlapping":
        prompt[positions[0] - 1] = invocation[0]
    return prompt


def active_from(prompt, invocation):
    starts = [i for i in range(len(prompt)) if prompt[i : i + len(invocation)] == invocation]
    return starts[-1] if starts else None


@torch.no_grad()
def generate(model, prompt):
    ids = torch.tensor([prompt])
    out = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=NUM_GREEDY, do_sample=False, eos_token_id=None, pad_token_id=0,
        return_dict_in_generate=True, output_logits=True,
    )
    logits = torch.cat(out.logits).float()
    best = torch.topk(logits, 2, dim=-1).values
    return out.sequences[0, len(prompt) :].tolist(), logits[0], float((best[:, 0] - best[:, 1]).min())


@torch.no_grad()
def masked_logits(model, tokens, start):
    """One pass over all tokens without a cache, the adapter on from `start` on."""
    offset = None if start is None else len(tokens) - start
    return model(input_ids=torch.tensor([tokens]), alora_offsets=[offset], use_cache=False).logits[0].float()


def record(model, base, case, adapter, positions, seed):
    invocation = model.peft_config["default"].alora_invocation_tokens
    for attempt in range(4000):
        prompt = prompt_of(case, invocation, positions, seed + attempt)
        greedy, logits, margin = generate(model, prompt)
        if case == "single_again_in_the_answer" and invocation[0] not in greedy[:-4]:
            continue
        if margin >= MIN_MARGIN:
            break
    else:
        raise RuntimeError(f"no prompt of {case} has a clear path")
    start = active_from(prompt, invocation)
    whole = masked_logits(model, prompt + greedy, start)
    picked = whole[len(prompt) - 1 : -1].argmax(-1).tolist()
    gap = float((whole[len(prompt) - 1] - logits).abs().max())
    if picked != greedy or gap > 1e-5:
        raise RuntimeError(f"{case}: with a cache logits differ by {gap}, and {picked} is not {greedy}")
    plain = float((logits_of(base, prompt) - logits).abs().max())
    if (plain < 1e-6) != (start is None):
        raise RuntimeError(f"{case}: differs from the base by {plain}")
    print(f"{case}: active from {start}, margin {margin:.4f}, {plain:.3f} from the base")
    return dict(
        base="../forms/split", adapter=adapter, input_ids=prompt, last_logits=[round(float(value), 7) for value in logits], greedy=greedy,
        margin=margin, active_from=start,
    )


def main(base_directory, out):
    shutil.rmtree(out, ignore_errors=True)
    os.makedirs(out)
    for i, (name, (settings, dtype)) in enumerate(ADAPTERS.items()):
        make_adapter(base_directory, os.path.join(out, name), settings, dtype, 900 + i)
    models = {name: load_adapter(base_directory, os.path.join(out, name)) for name in ADAPTERS}
    base = load_base(base_directory)
    golden = {}
    for i, (case, (adapter, positions)) in enumerate(CASES.items()):
        golden[case] = record(models[adapter], base, case, adapter, positions, 4000 + 10000 * i)
    write_golden(out, golden)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python make_activated.py BASE OUT")
    main(sys.argv[1], sys.argv[2])
