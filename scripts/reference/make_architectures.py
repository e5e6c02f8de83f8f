"""Writes tiny random models of every architecture, with PEFT adapters, and what the reference makes of them.

    python make_architectures.py OUT

needs torch, transformers 5, peft 0.21 and safetensors. Writes

    OUT/<case>/            config.json, generation_config.json, model*.safetensors [, index]
    OUT/<case>-<adapter>/  adapter_config.json, adapter_model.safetensors
    OUT/golden.json        {name: {base, adapter, input_ids, last_logits, top10, greedy, margin, versions}}

reference.py says where the numbers of golden.json come from.
"""

import json
import math
import os
import shutil
import sys
import traceback

# First: it keeps transformers quiet and off the network.
from reference import NUM_PROMPT, VERSIONS, VOCAB, effect_of, load_base, logits_of, record, write_golden

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

SPLIT = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
FUSED = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
COMMON = dict(
    vocab_size=VOCAB,
    num_hidden_layers=2,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
    tie_word_embeddings=False,
)

# sizes are odd on purpose; `config` adds to COMMON, `rope` is tried as rope_parameters, then in the old spelling
CASES = {
    # attention and MLP bias, tied embeddings, the spelling of transformers 4 without head_dim
    "llama_bias": dict(
        kind="Llama",
        config=dict(
            hidden_size=36, intermediate_size=52, num_attention_heads=6, num_key_value_heads=2,
            max_position_embeddings=128, rms_norm_eps=1e-5, attention_bias=True, mlp_bias=True,
            tie_word_embeddings=True,
        ),
        rope=dict(rope_type="default", rope_theta=5000.0),
        old_spelling=True,
    ),
    # Llama 3.1 scaling that acts at these lengths; head_dim * heads is not hidden_size; F16 file
    "llama3_rope": dict(
        kind="Llama",
        config=dict(
            hidden_size=40, intermediate_size=44, num_attention_heads=4, num_key_value_heads=1,
            head_dim=12, max_position_embeddings=512, rms_norm_eps=1e-6,
        ),
        rope=dict(
            rope_type="llama3", rope_theta=10000.0, factor=8.0, low_freq_factor=1.0,
            high_freq_factor=4.0, original_max_position_embeddings=64,
        ),
        dtype=torch.float16,
    ),
    # linear scaling, rope_scaling.type of transformers 4, several shards
    "llama_linear": dict(
        kind="Llama",
        config=dict(
            hidden_size=32, intermediate_size=48, num_attention_heads=4, num_key_value_heads=4,
            max_position_embeddings=256, rms_norm_eps=1e-5,
        ),
        rope=dict(rope_type="linear", rope_theta=10000.0, factor=2.0),
        old_spelling=True,
        max_shard_size="30KB",
    ),
    "mistral": dict(
        kind="Mistral",
        config=dict(
            hidden_size=44, intermediate_size=36, num_attention_heads=4, num_key_value_heads=2,
            head_dim=10, max_position_embeddings=256, rms_norm_eps=1e-5, sliding_window=8,
        ),
        rope=dict(rope_type="default", rope_theta=100000.0),
    ),
    # biases on q, k and v; the second layer has a sliding window
    "qwen2": dict(
        kind="Qwen2",
        config=dict(
            hidden_size=40, intermediate_size=44, num_attention_heads=5, num_key_value_heads=1,
            max_position_embeddings=256, rms_norm_eps=1e-6, tie_word_embeddings=True,
            use_sliding_window=True, sliding_window=6, max_window_layers=1,
        ),
        rope=dict(rope_type="default", rope_theta=1000000.0),
        old_spelling=True,
    ),
    # norms on q and k heads; BF16 file
    "qwen3": dict(
        kind="Qwen3",
        config=dict(
            hidden_size=28, intermediate_size=44, num_attention_heads=4, num_key_value_heads=2,
            head_dim=16, max_position_embeddings=256, rms_norm_eps=1e-6,
        ),
        rope=dict(rope_type="default", rope_theta=1000000.0),
        dtype=torch.bfloat16,
    ),
    "qwen3_bias": dict(
        kind="Qwen3",
        config=dict(
            hidden_size=24, intermediate_size=40, num_attention_heads=3, num_key_value_heads=3,
            head_dim=8, max_position_embeddings=256, rms_norm_eps=1e-6, attention_bias=True,
            tie_word_embeddings=True,
        ),
        rope=dict(rope_type="default", rope_theta=10000.0),
    ),
    # fused projections, half of each head rotated
    "phi3": dict(
        kind="Phi3",
        config=dict(
            hidden_size=48, intermediate_size=40, num_attention_heads=4, num_key_value_heads=2,
            max_position_embeddings=128, original_max_position_embeddings=128, rms_norm_eps=1e-5,
            partial_rotary_factor=0.5,
        ),
        rope=dict(rope_type="default", rope_theta=10000.0, partial_rotary_factor=0.5),
        modules=FUSED,
    ),
    # LongRoPE below its original length: short factors and the attention factor act; sliding window too
    "phi3_longrope": dict(
        kind="Phi3",
        config=dict(
            hidden_size=32, intermediate_size=36, num_attention_heads=4, num_key_value_heads=1,
            max_position_embeddings=256, original_max_position_embeddings=64, rms_norm_eps=1e-5,
            sliding_window=16,
        ),
        rope=dict(
            rope_type="longrope", rope_theta=10000.0, short_factor=[1.0, 1.25, 1.5, 2.5],
            long_factor=[1.0, 2.0, 4.0, 8.0], original_max_position_embeddings=64,
        ),
        modules=FUSED,
    ),
}


def make_config(case):
    kind = getattr(transformers, case["kind"] + "Config")
    values = {**COMMON, **case["config"]}
    rope = dict(case["rope"])
    attempts = [dict(values, rope_parameters=rope), dict(values, **old_rope(rope))]
    for attempt in list(attempts):
        attempts.append({key: value for key, value in attempt.items() if key != "partial_rotary_factor"})
    problems = []
    for attempt in attempts:
        try:
            return kind(**attempt)
        except Exception as problem:  # each release of transformers spells these differently
            problems.append(repr(problem)[:200])
    raise RuntimeError("no spelling of the configuration is accepted: " + " | ".join(problems))


def old_rope(rope):
    """The fields of transformers 4 for one rope_parameters record."""
    rope = dict(rope)
    fields = {"rope_theta": rope.pop("rope_theta")}
    if "partial_rotary_factor" in rope:
        fields["partial_rotary_factor"] = rope.pop("partial_rotary_factor")
    kind = rope.pop("rope_type")
    if kind != "default":
        fields["rope_scaling"] = {"type" if kind == "linear" else "rope_type": kind, **rope}
    return fields


def randomise(model, seed):
    """Gives every parameter a value that changes the result when it is ignored."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith("bias"):
                value = 0.3 * noise
            elif parameter.ndim == 1:
                value = 1 + 0.3 * noise
            elif "embed_tokens" in name:
                # a tied model with large embeddings would only repeat its input
                value = (0.2 if model.config.tie_word_embeddings else 0.7) * noise
            else:
                value = noise * (1.2 / math.sqrt(parameter.shape[1]))
            parameter.copy_(value)


def rewrite_old_spelling(path):
    config = json.load(open(path))
    rope = config.pop("rope_parameters", None)
    if rope is not None:
        config.update(old_rope(rope))
    if "dtype" in config:
        config["torch_dtype"] = config.pop("dtype")
    head_dim = config.get("head_dim")
    if head_dim is None or head_dim * config["num_attention_heads"] == config["hidden_size"]:
        config.pop("head_dim", None)
    config.pop("layer_types", None)
    config["transformers_version"] = "4.40.0"
    with open(path, "w") as file:
        json.dump(config, file, indent=2)
        file.write("\n")


def make_base(name, case, out, seed):
    directory = os.path.join(out, name)
    shutil.rmtree(directory, ignore_errors=True)
    config = make_config(case)
    try:
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    except TypeError:
        model = AutoModelForCausalLM.from_config(config)
    model = model.float().eval()
    randomise(model, seed)
    model = model.to(case.get("dtype", torch.float32))
    saving = {"max_shard_size": case["max_shard_size"]} if "max_shard_size" in case else {}
    model.save_pretrained(directory, **saving)
    if case.get("old_spelling"):
        probe = list(range(3, 3 + NUM_PROMPT))
        before = logits_of(load_base(directory), probe)
        path = os.path.join(directory, "config.json")
        shutil.copy(path, path + ".new")
        rewrite_old_spelling(path)
        try:
            gap = float((logits_of(load_base(directory), probe) - before).abs().max())
        except Exception as problem:
            gap = math.inf
            print(f"  {name}: transformers refuses the old spelling: {problem!r}"[:300])
        if gap > 1e-6:
            print(f"  {name}: the old spelling changes the result by {gap}; the new one is kept")
            os.replace(path + ".new", path)
        else:
            os.remove(path + ".new")
    return directory


def adapters_of(case, index):
    modules = case.get("modules", SPLIT)
    everything = dict(r=5, lora_alpha=10, target_modules=modules)
    if index % 2 == 0:
        everything.update(
            rank_pattern={modules[0]: 3, r"layers.1.mlp.down_proj": 8},
            alpha_pattern={modules[-2]: 4, r"layers.0.self_attn.o_proj": 2.5},
        )
    else:
        everything.update(use_rslora=True, lora_alpha=7)
    subset = ["qkv_proj", "down_proj"] if modules is FUSED else ["q_proj", "v_proj", "down_proj"]
    return {
        "all": (everything, torch.float32),
        "half": (
            dict(r=3 if index % 2 == 0 else 12, lora_alpha=16, target_modules=subset),
            torch.bfloat16 if index % 2 == 0 else torch.float16,
        ),
    }


def make_adapter(base_directory, directory, settings, dtype, seed):
    shutil.rmtree(directory, ignore_errors=True)
    model = get_peft_model(load_base(base_directory), LoraConfig(task_type="CAUSAL_LM", **settings))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    model.save_pretrained(directory)
    path = os.path.join(directory, "adapter_model.safetensors")
    if dtype != torch.float32:
        tensors = {name: tensor.to(dtype).contiguous() for name, tensor in load_file(path).items()}
        save_file(tensors, path, metadata={"format": "pt"})
    settings_path = os.path.join(directory, "adapter_config.json")
    config = json.load(open(settings_path))
    config["base_model_name_or_path"] = os.path.basename(base_directory)
    for key, value in list(config.items()):
        if isinstance(value, (set, frozenset)):
            config[key] = sorted(value)
    if isinstance(config.get("target_modules"), list):
        config["target_modules"] = sorted(config["target_modules"])
    with open(settings_path, "w") as file:
        json.dump(config, file, indent=2, sort_keys=True)
        file.write("\n")
    readme = os.path.join(directory, "README.md")
    if os.path.exists(readme):
        os.remove(readme)


def load_adapter(base_directory, directory):
    model = PeftModel.from_pretrained(load_base(base_directory), directory).float().eval()
    weights = [p for n, p in model.named_parameters() if "lora_" in n]
    on_disk = load_file(os.path.join(directory, "adapter_model.safetensors"))
    if len(weights) != len(on_disk):
        raise RuntimeError(f"{len(on_disk)} tensors in the file, {len(weights)} in the model")
    return model


def main(out):
    os.makedirs(out, exist_ok=True)
    torch.use_deterministic_algorithms(True, warn_only=True)
    golden, failures = {}, []
    for index, (name, case) in enumerate(CASES.items()):
        try:
            directory = make_base(name, case, out, 1000 + index)
            base = load_base(directory)
            golden[name] = record(base, name, None, 5000 + 100 * index)
            files = sorted(f for f in os.listdir(directory) if f.endswith(".safetensors"))
            print(f"{name}: ok, margin {golden[name]['margin']:.4f}, {len(files)} weight file(s)")
        except Exception:
            failures.append(name)
            print(f"{name}: FAILED\n{traceback.format_exc()}")
            continue
        for number, (adapter, (settings, dtype)) in enumerate(adapters_of(case, index).items()):
            full = f"{name}-{adapter}"
            try:
                adapter_directory = os.path.join(out, full)
                seed = 2000 + 10 * index + number
                make_adapter(directory, adapter_directory, settings, dtype, seed)
                model = load_adapter(directory, adapter_directory)
                entry = record(model, name, full, 9000 + 1000 * number + 100 * index)
                effect = effect_of(full, model, base, entry["input_ids"])
                golden[full] = entry
                print(f"{full}: ok, margin {entry['margin']:.4f}, changes logits by {effect:.2f}")
            except Exception:
                failures.append(full)
                print(f"{full}: FAILED\n{traceback.format_exc()}")
    write_golden(out, golden)
    total = sum(os.path.getsize(os.path.join(d, f)) for d, _, fs in os.walk(out) for f in fs)
    print(f"{len(golden)} entries, {len(failures)} failures {failures}, {total / 1e6:.2f} MB, {VERSIONS}")
    return 1 if failures else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python make_architectures.py OUT")
    sys.exit(main(sys.argv[1]))
