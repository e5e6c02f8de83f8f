"""Writes tiny mixtures of experts in every spelling, with adapters on experts, routers and attention.

    python make_experts.py OUT

needs what make_architectures.py needs, and writes the same kinds of files:

    OUT/<base>/              as transformers 4 wrote it, a tensor per expert, or as transformers 5 holds it
    OUT/<base>-<adapter>/    adapter_config.json, adapter_model.safetensors
    OUT/golden.json          {name: {base, adapter, input_ids, last_logits, top10, greedy, margin, versions}}

Adapters on parameters are PEFT's own, and so is their reference. Adapters that name single experts, as PEFT wrote them
with transformers 4, are written here, and their reference is the base with changed weights.
"""

import json
import math
import os
import re
import shutil
import sys

from reference import effect_of, load_base, record, write_golden

import torch
from make_architectures import COMMON, load_adapter, make_adapter, randomise
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, MixtralConfig, Qwen3MoeConfig

BASES = {
    # a sliding window, widths that fill no panel
    "mixtral": dict(
        config=MixtralConfig(**{
            **COMMON, "hidden_size": 28, "intermediate_size": 20, "num_attention_heads": 2, "num_key_value_heads": 1,
            "num_local_experts": 5, "num_experts_per_tok": 2, "max_position_embeddings": 128, "sliding_window": 8,
        }),
        dtype=torch.float32, fused=True,
    ),
    # a dense layer between sparse ones, shares normalized, the spelling of transformers 4, shards
    "qwen3_moe": dict(
        config=Qwen3MoeConfig(**{
            **COMMON, "hidden_size": 24, "intermediate_size": 28, "moe_intermediate_size": 12, "num_hidden_layers": 3,
            "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 8, "num_experts": 6, "num_experts_per_tok": 3,
            "mlp_only_layers": [1], "norm_topk_prob": True, "max_position_embeddings": 128,
        }),
        dtype=torch.float32, fused=False, shards="40KB",
    ),
    # every second layer sparse, shares as they are, tied embeddings, biases, bfloat16
    "qwen3_step": dict(
        config=Qwen3MoeConfig(**{
            **COMMON, "hidden_size": 24, "intermediate_size": 20, "moe_intermediate_size": 12, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 12, "num_experts": 4, "num_experts_per_tok": 2,
            "decoder_sparse_step": 2, "norm_topk_prob": False, "attention_bias": True, "tie_word_embeddings": True,
            "max_position_embeddings": 128,
        }),
        dtype=torch.bfloat16, fused=True,
    ),
}

# base, settings, dtype
TRAINED = {
    "attention": ("mixtral", dict(r=4, lora_alpha=8, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"]), torch.float32),
    "everything": ("mixtral", dict(r=3, lora_alpha=6, target_modules="all-linear"), torch.float32),
    "parameters": ("qwen3_moe", dict(
        r=4, lora_alpha=5, use_rslora=True, target_modules=["v_proj"],
        target_parameters=["mlp.experts.gate_up_proj", "experts.down_proj", "gate.weight"],
        rank_pattern={r"experts\.down_proj": 2, r"layers.2.mlp.gate.weight": 1}, alpha_pattern={"gate_up_proj": 9},
    ), torch.bfloat16),
    "converted": ("qwen3_moe", dict(r=2, lora_alpha=6, target_modules=r".*experts.*(gate_proj|up_proj)"), torch.float16),
    "one_parameter": ("qwen3_step", dict(r=5, lora_alpha=4, target_parameters=["down_proj", "q_proj.weight"]), torch.float32),
}

# base, names of target modules, extra settings
SINGLE = {
    "single": ("mixtral", ["w1", "w2", "w3", "gate"], dict(rank_pattern={"w2": 3, r"experts\.1\.w1": 1}, alpha_pattern={"gate": 2.5})),
    "single_dora": ("mixtral", ["w1", "w2", "w3"], dict(use_dora=True)),
    "single_mixed": ("qwen3_moe", ["gate_proj", "up_proj", "down_proj", "q_proj"], dict(use_rslora=True)),
}


def make_base(name, case, out, seed):
    directory = os.path.join(out, name)
    shutil.rmtree(directory, ignore_errors=True)
    model = AutoModelForCausalLM.from_config(case["config"], attn_implementation="eager").float().eval()
    randomise(model, seed)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter.ndim == 3:
                generator = torch.Generator().manual_seed(seed + len(parameter_name))
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * (1.2 / math.sqrt(parameter.shape[2])))
            elif parameter_name.endswith("gate.weight"):
                parameter.mul_(2)
    saving = {"max_shard_size": case["shards"]} if "shards" in case else {}
    model.to(case["dtype"]).save_pretrained(directory, save_original_format=not case["fused"], **saving)
    if not case["fused"]:
        path = os.path.join(directory, "config.json")
        config = json.load(open(path))
        config["num_experts"] = config.pop("num_local_experts")
        with open(path, "w") as file:
            json.dump(config, file, indent=2)
            file.write("\n")
    return directory


def linear_modules(model, base, targets):
    """Path as a file of transformers 4 has it, and the weight to change, as a view."""
    block, names = ("block_sparse_moe", ("w1", "w3", "w2")) if base == "mixtral" else ("mlp", ("gate_proj", "up_proj", "down_proj"))
    for index, layer in enumerate(model.model.layers):
        at = f"model.layers.{index}"
        found = {f"{at}.self_attn.q_proj": layer.self_attn.q_proj.weight}
        if hasattr(layer.mlp, "experts"):
            found[f"{at}.{block}.gate"] = layer.mlp.gate.weight
            for expert in range(layer.mlp.experts.gate_up_proj.shape[0]):
                gate, up = layer.mlp.experts.gate_up_proj[expert].chunk(2)
                down = layer.mlp.experts.down_proj[expert]
                for name, weight in zip(names, (gate, up, down)):
                    found[f"{at}.{block}.experts.{expert}.{name}"] = weight
        else:
            for name in names:
                found[f"{at}.mlp.{name}"] = getattr(layer.mlp, name).weight
        yield from ((path, weight) for path, weight in found.items() if path.split(".")[-1] in targets)


def pattern_value(patterns, path, default):
    return next((value for pattern, value in patterns.items() if re.match(rf"(.*\.)?({pattern})$", path)), default)


def make_single(base, directory, targets, settings, seed):
    """@returns the base with the adapter in its weights"""
    model = load_base(os.path.join(os.path.dirname(directory), base))
    generator = torch.Generator().manual_seed(seed)
    config = dict(
        peft_type="LORA", task_type="CAUSAL_LM", r=2, lora_alpha=4, target_modules=sorted(targets), bias="none", lora_dropout=0.0,
        fan_in_fan_out=False, inference_mode=True, base_model_name_or_path=base, **settings,
    )
    tensors = {}
    with torch.no_grad():
        for path, weight in linear_modules(model, base, targets):
            rank = pattern_value(config.get("rank_pattern", {}), path, config["r"])
            alpha = pattern_value(config.get("alpha_pattern", {}), path, config["lora_alpha"])
            scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
            a = torch.randn(rank, weight.shape[1], generator=generator) * 0.2
            b = torch.randn(weight.shape[0], rank, generator=generator) * 0.2
            key = f"base_model.model.{path}"
            tensors.update({f"{key}.lora_A.weight": a, f"{key}.lora_B.weight": b})
            changed = weight + scale * (b @ a)
            if config.get("use_dora"):
                magnitude = weight.norm(dim=1) * (1 + 0.2 * torch.randn(weight.shape[0], generator=generator))
                tensors[f"{key}.lora_magnitude_vector"] = magnitude
                changed = changed * (magnitude / changed.norm(dim=1))[:, None]
            weight.copy_(changed)
    shutil.rmtree(directory, ignore_errors=True)
    os.makedirs(directory)
    save_file(tensors, os.path.join(directory, "adapter_model.safetensors"), metadata={"format": "pt"})
    with open(os.path.join(directory, "adapter_config.json"), "w") as file:
        json.dump(config, file, indent=2, sort_keys=True)
        file.write("\n")
    return model


def main(out):
    os.makedirs(out, exist_ok=True)
    golden = {}
    for index, (name, case) in enumerate(BASES.items()):
        golden[name] = record(load_base(make_base(name, case, out, 100 + index)), name, None, 1000 + 100 * index)
    adapters = {}
    for index, (name, (base, settings, dtype)) in enumerate(TRAINED.items()):
        directories = os.path.join(out, base), os.path.join(out, f"{base}-{name}")
        make_adapter(*directories, settings, dtype, 300 + index)
        adapters[f"{base}-{name}"] = base, load_adapter(*directories)
    for index, (name, (base, targets, settings)) in enumerate(SINGLE.items()):
        directory = os.path.join(out, f"{base}-{name}")
        adapters[f"{base}-{name}"] = base, make_single(base, directory, targets, settings, 400 + index)
    for index, (name, (base, model)) in enumerate(adapters.items()):
        golden[name] = record(model, base, name, 3000 + 100 * index)
        effect = effect_of(name, model, load_base(os.path.join(out, base)), golden[name]["input_ids"])
        print(f"{name}: margin {golden[name]['margin']:.4f}, changes logits by {effect:.2f}")
        assert golden[name]["margin"] > 1e-3
    write_golden(out, golden)


if __name__ == "__main__":
    main(sys.argv[1])
