"""Writes one tiny model twice, with fused and with split projections, and PEFT adapters in rarer forms.

    python make_forms.py OUT

needs what make_architectures.py needs, and writes the same kinds of files:

    OUT/fused/  OUT/split/   the same function as Phi-3 and as Llama; split in shards of several dtypes
    OUT/<adapter>/           adapter_config.json, adapter_model.safetensors
    OUT/golden.json          {name: {base, adapter, input_ids, last_logits, top10, greedy, margin, versions}}

The reference of an adapter on the other base is what PEFT computes on the base that it was made for.
"""

import json
import os
import shutil
import sys

from reference import VOCAB, effect_of, load_base, logits_of, record, write_golden

import torch
from make_architectures import FUSED, load_adapter, make_adapter, randomise
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Phi3Config

HEADS, KV_HEADS, HEAD_DIM, INTERMEDIATE = 4, 2, 6, 20
SIZES = dict(
    vocab_size=VOCAB, hidden_size=HEADS * HEAD_DIM, intermediate_size=INTERMEDIATE, num_hidden_layers=2,
    num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, max_position_embeddings=128, rms_norm_eps=1e-5,
    bos_token_id=1, eos_token_id=2, pad_token_id=0, tie_word_embeddings=False,
)
# rope_theta beside the type, as files of transformers 4.5x have it
LLAMA = dict(
    SIZES, architectures=["LlamaForCausalLM"], model_type="llama", hidden_act="silu", torch_dtype="bfloat16",
    rope_scaling=dict(type="default", rope_theta=30000.0),
)

# adapter: (base that it is made on, settings, dtype of A, dtype of B)
ADAPTERS = {
    "empty_lists": ("split", dict(r=4, lora_alpha=8, target_modules=["q_proj", "up_proj"], layers_to_transform=[], layers_pattern=[]), torch.float32, torch.float32),
    "any_list": ("split", dict(r=3, lora_alpha=5, target_modules=["k_proj", "down_proj"], layers_to_transform=[1], layers_pattern=[]), torch.float32, torch.float32),
    "named_lists": ("split", dict(r=2, lora_alpha=9, target_modules=["v_proj", "o_proj"], layers_to_transform=0, layers_pattern=["h", r"l[a-z]+s"]), torch.float32, torch.float32),
    "whole_path": ("split", dict(r=3, lora_alpha=6, target_modules=["model.layers.0.mlp.up_proj", "q_proj"], layers_to_transform=[1]), torch.float32, torch.float32),
    "all_but": ("split", dict(r=5, lora_alpha=2.5, target_modules="all-linear", exclude_modules=r".*\.0\.mlp\..*|.*k_proj"), torch.bfloat16, torch.bfloat16),
    "wide_ranks": ("split", dict(
        r=70, lora_alpha=0.37, use_rslora=True, target_modules=r"model\.layers\.\d\.\w+\.(?:q|v|gate)_proj",
        rank_pattern={r"^model\.layers\.1\.self_attn\.q_proj": 1, r"mlp\.gate_proj": 33}, alpha_pattern={"v_proj|gate_proj": 21.5},
    ), torch.float16, torch.float16),
    "mixed_dtypes": ("split", dict(r=6, lora_alpha=12, target_modules=["q_proj", "k_proj", "v_proj", "down_proj"]), torch.float16, torch.bfloat16),
    "for_split": ("split", dict(r=4, lora_alpha=8, target_modules="all-linear", rank_pattern={"k_proj": 7, "gate_proj": 2}), torch.float32, torch.float32),
    "for_fused": ("fused", dict(r=4, lora_alpha=8, target_modules=FUSED, alpha_pattern={"qkv_proj": 3}), torch.float32, torch.float32),
}
OTHER = {"for_split": "fused", "for_fused": "split"}


def make_bases(out):
    config = Phi3Config(
        **SIZES, original_max_position_embeddings=128, rope_parameters=dict(rope_type="default", rope_theta=30000.0, partial_rotary_factor=1.0)
    )
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    randomise(model, 4242)
    fused, split = os.path.join(out, "fused"), os.path.join(out, "split")
    model.to(torch.bfloat16).save_pretrained(fused)
    tensors = {}
    for name, tensor in load_file(os.path.join(fused, "model.safetensors")).items():
        for part, rows in parts_of(name):
            tensors[part] = tensor[rows] if rows else tensor
    os.makedirs(split)
    # every dtype holds the numbers of a bfloat16 exactly, but float16 only the larger ones
    halves = [{}, {}]
    for index, (name, tensor) in enumerate(sorted(tensors.items())):
        wide = tensor.float()
        as_half = wide.half()
        exact = torch.equal(as_half.float(), wide)
        stored = tensor if index % 3 == 0 else as_half if exact and index % 3 == 1 else wide
        halves[index % 2][name] = stored.contiguous()
    files = [f"model-{i + 1:05}-of-00002.safetensors" for i in range(2)]
    for file, half in zip(files, halves):
        save_file(half, os.path.join(split, file), metadata={"format": "pt"})
    index = dict(
        metadata=dict(total_size=sum(t.nbytes for half in halves for t in half.values())),
        weight_map={name: file for file, half in zip(files, halves) for name in half},
    )
    write_json(os.path.join(split, "model.safetensors.index.json"), index)
    write_json(os.path.join(split, "config.json"), LLAMA)


def parts_of(name):
    if "qkv_proj" in name:
        q, kv = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
        widths = [("q_proj", q), ("k_proj", kv), ("v_proj", kv)]
        whole = "qkv_proj"
    elif "gate_up_proj" in name:
        widths, whole = [("gate_proj", INTERMEDIATE), ("up_proj", INTERMEDIATE)], "gate_up_proj"
    else:
        return [(name, None)]
    parts, start = [], 0
    for part, width in widths:
        parts.append((name.replace(whole, part), slice(start, start + width)))
        start += width
    return parts


def write_json(path, value):
    with open(path, "w") as file:
        json.dump(value, file, indent=2, sort_keys=True)
        file.write("\n")


def main(out):
    shutil.rmtree(out, ignore_errors=True)
    os.makedirs(out)
    make_bases(out)
    base_of = {name: load_base(os.path.join(out, name)) for name in ("fused", "split")}
    golden = {name: record(base, name, None, 70 + i) for i, (name, base) in enumerate(base_of.items())}
    gap = (logits_of(base_of["fused"], golden["fused"]["input_ids"]) - logits_of(base_of["split"], golden["fused"]["input_ids"])).abs().max()
    if float(gap) > 1e-5:
        raise RuntimeError(f"the two bases differ by {float(gap)}")
    for i, (name, (base, settings, a_dtype, b_dtype)) in enumerate(ADAPTERS.items()):
        directory, base_directory = os.path.join(out, name), os.path.join(out, base)
        make_adapter(base_directory, directory, settings, torch.float32, 300 + i)
        path = os.path.join(directory, "adapter_model.safetensors")
        tensors = {key: t.to(a_dtype if ".lora_A." in key else b_dtype).contiguous() for key, t in load_file(path).items()}
        save_file(tensors, path, metadata={"format": "pt"})
        model = load_adapter(base_directory, directory)
        golden[name] = record(model, base, name, 700 + 10 * i)
        effect = effect_of(name, model, base_of[base], golden[name]["input_ids"])
        print(f"{name}: margin {golden[name]['margin']:.4f}, changes logits by {effect:.2f}")
        if name in OTHER:
            golden[f"{name}_on_{OTHER[name]}"] = dict(golden[name], base=OTHER[name])
    write_golden(out, golden)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python make_forms.py OUT")
    main(sys.argv[1])
