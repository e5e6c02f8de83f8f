"""What every script beside this one does alike: float32 models from disk, what they answer, and how that is recorded.

Every number comes from files read back from disk, in float32 with eager attention and without a KV cache. `greedy` holds
24 new ids, end tokens ignored; `margin` is the smallest gap between the two best logits on the way, so that a comparison of
tokens is fair.
"""

import json
import math
import os
import warnings

warnings.filterwarnings("ignore")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import peft
import torch
import transformers
from transformers import AutoModelForCausalLM

transformers.utils.logging.disable_progress_bar()

VOCAB = 101
NUM_PROMPT = 20
NUM_GREEDY = 24
MIN_MARGIN = 2e-3
MIN_EFFECT = 1e-2
VERSIONS = dict(torch=torch.__version__, transformers=transformers.__version__, peft=peft.__version__)


def load_base(directory):
    arguments = dict(attn_implementation="eager")
    try:
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, **arguments)
    except TypeError:
        model = AutoModelForCausalLM.from_pretrained(directory, torch_dtype=torch.float32, **arguments)
    return model.float().eval()


def logits_of(model, ids):
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].float()


def greedy(model, prompt):
    ids, margin = list(prompt), math.inf
    for _ in range(NUM_GREEDY):
        best = torch.topk(logits_of(model, ids), 2)
        margin = min(margin, float(best.values[0] - best.values[1]))
        ids.append(int(best.indices[0]))
    return ids[len(prompt):], margin


def record(model, base, adapter, seed):
    """Runs prompts until one has no near tie on its greedy path."""
    chosen = None
    for attempt in range(40):
        generator = torch.Generator().manual_seed(seed + attempt)
        prompt = torch.randint(3, VOCAB, (NUM_PROMPT,), generator=generator).tolist()
        ids, margin = greedy(model, prompt)
        if chosen is None or margin > chosen[2]:
            chosen = (prompt, ids, margin)
        if margin >= MIN_MARGIN:
            break
    prompt, ids, margin = chosen
    logits = logits_of(model, prompt)
    if not bool(torch.isfinite(logits).all()):
        raise RuntimeError("the reference gives logits that are not finite")
    logprobs = torch.log_softmax(logits.double(), dim=-1)
    top = torch.topk(logprobs, 10)
    return dict(
        base=base,
        adapter=adapter,
        input_ids=prompt,
        last_logits=[round(float(value), 7) for value in logits],
        top10=[
            dict(id=int(i), logprob=round(float(value), 7)) for i, value in zip(top.indices, top.values)
        ],
        greedy=ids,
        margin=margin,
    )


def effect_of(name, model, base, prompt):
    """What an adapter changes of the logits. An adapter that changes next to nothing proves nothing."""
    effect = float((logits_of(model, prompt) - logits_of(base, prompt)).abs().max())
    if effect < MIN_EFFECT:
        raise RuntimeError(f"{name} changes logits by {effect} only")
    return effect


def write_golden(out, golden):
    """`golden` is {name: record}; which releases made it is told in each."""
    for entry in golden.values():
        entry["versions"] = VERSIONS
    with open(os.path.join(out, "golden.json"), "w") as file:
        json.dump(golden, file)
        file.write("\n")
