"""A dense language model as a mixture of experts of its own neurons: while it is trained, and as a checkpoint.

Each MLP is replaced by a module that computes all neurons, and multiplies those of an expert by the expert's weight.
With small experts this is fast and steady, and it can lead from the dense model to the mixture little by little.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
)

# of a dense model's configuration: what Qwen2-MoE computes in the same way
CARRIED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "rope_parameters",
    "tie_word_embeddings",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)


class Sizes(NamedTuple):
    """Neurons that every token visits, the number of experts, neurons of each, and experts that a token visits."""

    shared: int
    experts: int
    expert_size: int
    experts_per_token: int


class Parts(NamedTuple):
    """What becomes of one MLP: its neurons by number, and the first router."""

    shared: torch.Tensor  # [S]
    experts: torch.Tensor  # [E, M]
    router: torch.Tensor  # [E, D]


class MixtureMLP(nn.Module):
    """A gated MLP whose neurons are split into a shared expert and others, of which a router chooses.

    An expert's weight is K times its share of the probability of the K chosen experts, so it is 1 if all of them are
    alike; that of the shared expert is 2 sigmoid(g), which is 1 for a gate of zeros.

    Args:
        mlp: The dense one, with `gate_proj`, `up_proj` and `down_proj`.
        parts: Which neurons go where.
        experts_per_token: K.

    Attributes:
        mix: How much of the experts' weights is used, a scalar: at 0 the module computes what the dense MLP computes,
            at 1 the mixture.
        routing: Of the last call, the probability of each expert, and 1 where it was chosen, else 0: `[B, T, E]` each.
    """

    def __init__(self, mlp: nn.Module, parts: Parts, experts_per_token: int):
        super().__init__()
        neurons = torch.cat([parts.shared, parts.experts.flatten()])
        self.num_shared, self.num_chosen = len(parts.shared), experts_per_token
        self.num_experts, self.expert_size = parts.experts.shape
        self.gate = nn.Parameter(mlp.gate_proj.weight.detach()[neurons])  # [F, D]
        self.up = nn.Parameter(mlp.up_proj.weight.detach()[neurons])
        self.down = nn.Parameter(mlp.down_proj.weight.detach()[:, neurons])  # [D, F]
        self.router = nn.Parameter(parts.router.clone())
        self.shared_gate = nn.Parameter(torch.zeros_like(parts.router[:1]))
        self.register_buffer("mix", torch.ones((), device=parts.router.device), persistent=False)
        self.routing: tuple[torch.Tensor, torch.Tensor] | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(x.device.type, enabled=False):  # bfloat16 would choose other experts than the checkpoint
            probabilities = F.linear(x.float(), self.router).softmax(dim=-1)  # [B, T, E]
        indices = probabilities.topk(self.num_chosen, dim=-1).indices
        chosen = torch.zeros_like(probabilities).scatter(-1, indices, 1.0)
        self.routing = (probabilities, chosen)
        weights = probabilities * chosen
        weights = self.num_chosen * weights / weights.sum(dim=-1, keepdim=True)
        weights = 1 + self.mix * (weights - 1)
        shared = 2 * torch.sigmoid(F.linear(x, self.shared_gate))  # [B, T, 1]
        shared = shared.expand(*shared.shape[:-1], self.num_shared)
        scale = torch.cat([shared.float(), weights.repeat_interleave(self.expert_size, dim=-1)], dim=-1)  # [B, T, F]
        neurons = F.silu(F.linear(x, self.gate)) * F.linear(x, self.up)
        return F.linear(neurons * scale.to(neurons.dtype), self.down)

    def block_weights(self) -> dict[str, torch.Tensor]:
        """Return the weights under the names of Qwen2-MoE, which has neither of the factors K and 2."""
        split = [self.num_shared, self.num_experts * self.expert_size]
        experts = (self.num_experts, self.expert_size)
        (shared_gate, gate), (shared_up, up) = self.gate.split(split), self.up.split(split)
        shared_down, down = self.down.split(split, dim=1)
        return {
            "gate.weight": self.router,
            "experts.gate_up_proj": torch.cat([gate.unflatten(0, experts), up.unflatten(0, experts)], dim=1),
            "experts.down_proj": self.num_chosen * down.unflatten(1, experts).transpose(0, 1),  # [E, D, M]
            "shared_expert.gate_proj.weight": shared_gate,
            "shared_expert.up_proj.weight": shared_up,
            "shared_expert.down_proj.weight": 2 * shared_down,
            "shared_expert_gate.weight": self.shared_gate,
        }


def load_dense(source: str, gguf_file: str | None, sizes: Sizes) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a dense model, in float32, whose MLPs can be split into experts of these sizes, and its tokenizer.

    Args:
        source: Folder or Hub id.
        gguf_file: The name of a GGUF file there, if the weights are in one.
        sizes: Of the mixture to come.

    Raises:
        ValueError: If Qwen2-MoE cannot compute what the model computes, or the sizes do not add up.
        OSError: If it cannot be read.
    """
    where = {"pretrained_model_name_or_path": source} | ({} if gguf_file is None else {"gguf_file": gguf_file})
    config = AutoConfig.from_pretrained(**where)
    check_dense(config)
    check_sizes(sizes, config.intermediate_size)
    model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32, attn_implementation="sdpa")
    return model.eval().requires_grad_(False), AutoTokenizer.from_pretrained(**where)


def check_dense(config: PreTrainedConfig) -> None:
    """Raise `ValueError` unless Qwen2-MoE, with all experts on, computes what a dense model of this kind computes."""
    if config.model_type not in ("llama", "qwen2"):
        raise ValueError(
            f"--dense: expected the model_type 'llama' or 'qwen2', whose attention Qwen2-MoE has; got "
            f"{config.model_type!r}."
        )
    for name, expected in {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False}.items():
        if (got := getattr(config, name, expected)) != expected:
            raise ValueError(f"--dense: expected {name}={expected!r}, as always in Qwen2-MoE; got {got!r}.")
    if "sliding_attention" in (getattr(config, "layer_types", None) or ()):
        raise ValueError("--dense: expected full attention in every layer; got layers with a sliding window.")


def check_sizes(sizes: Sizes, width: int) -> None:
    """Raise `ValueError` unless experts of these sizes have each neuron of an MLP of this width once."""
    total = sizes.shared + sizes.experts * sizes.expert_size
    if total != width:
        raise ValueError(
            f"--shared, --experts, --expert-size: expected numbers that add up to the {width} neurons of an MLP; got "
            f"{sizes.shared} + {sizes.experts} x {sizes.expert_size} = {total}."
        )
    if sizes.experts_per_token > sizes.experts:
        raise ValueError(
            f"--experts-per-token: expected no more than there are experts, {sizes.experts}; got "
            f"{sizes.experts_per_token}."
        )


def to_mixture(dense: PreTrainedModel, parts: Sequence[Parts], experts_per_token: int) -> PreTrainedModel:
    """Return a copy of a dense model with a `MixtureMLP` in the place of each MLP; all but the vocabulary is trained.

    Args:
        dense: As `load_dense` returns it.
        parts: Of each layer.
        experts_per_token: How many experts a token visits.
    """
    model = copy.deepcopy(dense)
    for layer, of_layer in zip(model.model.layers, parts, strict=True):
        layer.mlp = MixtureMLP(layer.mlp, of_layer, experts_per_token)
    model.requires_grad_(True)
    model.get_input_embeddings().requires_grad_(False)
    model.get_output_embeddings().requires_grad_(False)
    return model


def mixtures(model: PreTrainedModel) -> list[MixtureMLP]:
    """Return the mixtures of a model that `to_mixture` made, layer by layer."""
    return [layer.mlp for layer in model.model.layers]


@torch.no_grad()
def to_checkpoint(model: PreTrainedModel) -> Qwen2MoeForCausalLM:
    """Return what a model that `to_mixture` made computes with `mix` 1, as a plain Qwen2-MoE on the processor."""
    mlp, dense = mixtures(model)[0], model.config
    config = Qwen2MoeConfig(
        **{name: getattr(dense, name) for name in CARRIED},
        head_dim=getattr(dense, "head_dim", None) or dense.hidden_size // dense.num_attention_heads,
        qkv_bias=dense.model_type == "qwen2",
        num_experts=mlp.num_experts,
        num_experts_per_tok=mlp.num_chosen,
        moe_intermediate_size=mlp.expert_size,
        shared_expert_intermediate_size=mlp.num_shared,
        norm_topk_prob=True,
    )
    weights = {name: weight for name, weight in model.state_dict().items() if ".mlp." not in name}
    for i, mlp in enumerate(mixtures(model)):
        weights |= {f"model.layers.{i}.mlp.{name}": weight for name, weight in mlp.block_weights().items()}
    checkpoint = Qwen2MoeForCausalLM(config).eval()
    checkpoint.load_state_dict(weights)
    return checkpoint
