"""Writes PEFT adapters that change more than linear layers, on bases of test/fixtures/architectures.

    python make_replacements.py BASES OUT

BASES is what make_architectures.py wrote. Writes the same kinds of files as make_forms.py; `base` in golden.json is
relative to OUT. What tied weights, copies of base weights and `ensure_weight_tying` mean is what PEFT makes of them here.
"""

import json
import os
import shutil
import sys

from reference import effect_of, load_base, record, write_golden

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

# The first has biases everywhere, the second norms of heads and bfloat16 weights.
TIED, UNTIED = "llama_bias", "qwen3"
Q = ["q_proj"]

# As `save_pretrained` takes them.
COPIES, TORCH_FILE = dict(save_embedding_layers=True), dict(safe_serialization=False)

# adapter: (base, settings, dtype of all tensors, how it is saved)
ADAPTERS = {
    "embedding": (TIED, dict(r=3, lora_alpha=7, target_modules=["embed_tokens", "q_proj"]), torch.float32),
    "head": (TIED, dict(r=3, lora_alpha=7, target_modules=["lm_head", "v_proj"], lora_bias=True), torch.float32),
    "both_apart": (TIED, dict(r=4, lora_alpha=5, target_modules=["lm_head", "embed_tokens"], use_rslora=True, rank_pattern={"lm_head": 9}, alpha_pattern={"embed_tokens": 3}), torch.bfloat16),
    "both_tied": (TIED, dict(r=2, lora_alpha=3, target_modules=["embed_tokens", "o_proj"], ensure_weight_tying=True), torch.float32),
    "both_untied": (UNTIED, dict(r=17, lora_alpha=6, target_modules=r".*(embed_tokens|lm_head|down_proj)", ensure_weight_tying=True, fan_in_fan_out=True), torch.float32),
    "dora_edges": (UNTIED, dict(r=3, lora_alpha=4, target_modules=["embed_tokens", "lm_head", "q_proj"], use_dora=True), torch.float32),
    "copies_changed": (TIED, dict(r=2, lora_alpha=2, target_modules=["embed_tokens", "k_proj"]), torch.float32),
    "copies_unnamed": (UNTIED, dict(r=2, lora_alpha=2, target_modules=["k_proj"]), torch.float32),
    "saved_head": (TIED, dict(r=2, lora_alpha=5, target_modules=Q, modules_to_save=["lm_head"]), torch.float32),
    "saved_embedding": (TIED, dict(r=2, lora_alpha=5, target_modules=Q, modules_to_save=["embed_tokens"]), torch.bfloat16),
    "saved_tied": (TIED, dict(r=2, lora_alpha=5, target_modules=Q, modules_to_save=["embed_tokens"], ensure_weight_tying=True), torch.float32),
    "saved_norms": (UNTIED, dict(r=3, lora_alpha=5, target_modules=Q, modules_to_save=["norm", "layers.1.self_attn.k_norm"]), torch.float32),
    "saved_final_norm": (UNTIED, dict(r=3, lora_alpha=5, target_modules=Q, modules_to_save=["model.norm", "layers.0.input_layernorm"]), torch.float16),
    "saved_linear": (TIED, dict(r=3, lora_alpha=5, target_modules=["q_proj", "v_proj", "o_proj"], modules_to_save=["v_proj", "1.mlp", "0.self_attn.o_proj"], rank_pattern={"q_proj": 1}), torch.float32),
    "tokens_tied": (TIED, dict(r=2, lora_alpha=5, target_modules=["q_proj", "lm_head"], trainable_token_indices=[50, 3, 17]), torch.float32),
    "tokens_apart": (TIED, dict(r=2, lora_alpha=5, target_modules=Q, trainable_token_indices={"embed_tokens": [50, 3], "lm_head": [7]}), torch.float32),
    "tokens_untied": (UNTIED, dict(r=2, lora_alpha=5, target_modules=Q, modules_to_save=["lm_head", "model.norm"], trainable_token_indices=list(range(60, 20, -2))), torch.float32),
    "tokens_head": (UNTIED, dict(r=2, lora_alpha=5, target_modules=["q_proj", "embed_tokens"], trainable_token_indices={"lm_head": list(range(99, 40, -1))}), torch.bfloat16),
    "bias_all": (TIED, dict(r=2, lora_alpha=5, target_modules=["q_proj", "down_proj"], bias="all"), torch.float32),
    "bias_all_dora": (TIED, dict(r=2, lora_alpha=5, target_modules=["q_proj", "o_proj"], bias="all", use_dora=True), torch.float32),
    "saved_fused": ("phi3", dict(r=2, lora_alpha=5, target_modules=["qkv_proj", "lm_head"], modules_to_save=["down_proj", "gate_up_proj"]), torch.float32),
    "saved_router": ("../experts/mixtral", dict(r=2, lora_alpha=5, target_modules=["q_proj", "embed_tokens"], modules_to_save=["gate", "norm"], trainable_token_indices={"lm_head": [90, 4]}), torch.float32),
    "bias_lora_only": ("qwen2", dict(r=2, lora_alpha=5, target_modules=["q_proj", "k_proj", "o_proj"], bias="lora_only", lora_bias=True), torch.float32),
    "saved_beside_copies": (TIED, dict(r=2, lora_alpha=5, target_modules=Q, modules_to_save=["lm_head"]), torch.float32, COPIES),
    "tokens_beside_copies": (TIED, dict(r=2, lora_alpha=5, target_modules=Q, trainable_token_indices=[50, 3, 17]), torch.float32, COPIES),
    "saved_with_biases": (TIED, dict(r=2, lora_alpha=5, target_modules=Q, modules_to_save=["1.mlp"], bias="all"), torch.float32),
    "tied_torch_file": (TIED, dict(r=2, lora_alpha=3, target_modules=["embed_tokens", "o_proj"], ensure_weight_tying=True), torch.float32, TORCH_FILE),
    "saved_experts": ("../experts/mixtral", dict(r=2, lora_alpha=5, target_modules=Q, modules_to_save=["0.mlp.experts"]), torch.bfloat16),
    "saved_sparse": ("../experts/qwen3_step", dict(r=2, lora_alpha=5, target_modules=Q, modules_to_save=["1.mlp"]), torch.float32),
}


def make_adapter(base, directory, settings, dtype, seed, saving):
    model = get_peft_model(load_base(base), LoraConfig(task_type="CAUSAL_LM", **settings))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            noise = torch.randn(parameter.shape, generator=generator)
            if "magnitude" in name:
                parameter.mul_(1 + 0.3 * noise)
            elif "lora_" in name:
                parameter.copy_(0.2 * noise)
            else:
                parameter.add_(0.2 * noise)
    model.save_pretrained(directory, **saving)
    path = os.path.join(directory, "adapter_model.safetensors")
    tensors = tensors_of(directory)
    if directory.endswith("copies_changed"):
        name = "base_model.model.model.embed_tokens.base_layer.weight"
        tensors[name] = tensors[name] + 0.1 * torch.randn(tensors[name].shape, generator=generator)
    if directory.endswith("copies_unnamed"):
        # as save_embedding_layers=True writes them
        state = model.state_dict()
        for name in ("base_model.model.model.embed_tokens.weight", "base_model.model.lm_head.weight"):
            tensors[name] = state[name].clone()
        tensors[name] = tensors[name] + 0.1 * torch.randn(tensors[name].shape, generator=generator)
    if os.path.exists(path):
        save_file({name: t.to(dtype).contiguous() for name, t in tensors.items()}, path, metadata={"format": "pt"})
    settings_path = os.path.join(directory, "adapter_config.json")
    config = {key: sorted(value) if key in ("target_modules", "modules_to_save") and isinstance(value, list) else value for key, value in json.load(open(settings_path)).items()}
    config["base_model_name_or_path"] = os.path.basename(base)
    with open(settings_path, "w") as file:
        json.dump(config, file, indent=2, sort_keys=True)
        file.write("\n")
    os.remove(os.path.join(directory, "README.md"))


def tensors_of(directory):
    path = os.path.join(directory, "adapter_model.safetensors")
    return load_file(path) if os.path.exists(path) else torch.load(os.path.join(directory, "adapter_model.bin"))


def load_adapter(base, directory):
    """Every tensor of the file must be in the model, bit for bit."""
    model = PeftModel.from_pretrained(load_base(base), directory).float().eval()
    held = {hash_of(t) for t in model.state_dict().values()}
    for name, tensor in tensors_of(directory).items():
        if hash_of(tensor.float()) not in held:
            raise RuntimeError(f"{name} is not in the model")
    return model


def hash_of(tensor):
    return tensor.float().contiguous().numpy().tobytes()


def main(bases, out):
    shutil.rmtree(out, ignore_errors=True)
    os.makedirs(out)
    golden = {}
    for i, (name, (base, settings, dtype, *saving)) in enumerate(ADAPTERS.items()):
        base_directory, directory = os.path.join(bases, base), os.path.join(out, name)
        make_adapter(base_directory, directory, settings, dtype, 400 + i, saving[0] if saving else {})
        model = load_adapter(base_directory, directory)
        golden[name] = record(model, os.path.normpath(os.path.join("..", os.path.basename(os.path.normpath(bases)), base)), name, 800 + 10 * i)
        effect = effect_of(name, model, load_base(base_directory), golden[name]["input_ids"])
        print(f"{name}: margin {golden[name]['margin']:.4f}, changes logits by {effect:.2f}")
    write_golden(out, golden)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python make_replacements.py BASES OUT")
    main(*sys.argv[1:])
