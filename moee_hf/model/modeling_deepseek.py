"""The `deepseek` architecture (DeepSeekMoE-16B, arXiv 2401.06066) from the parts of transformers.

A Llama decoder whose feed-forward layers, after the first dense ones, are shared experts plus routed experts: softmax
over all experts, the top k of them, optionally rescaled to sum to 1. Checkpoints keep the original per-expert keys.
"""

import torch
from torch import nn
from transformers import LlamaModel
from transformers import initialization as init
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping
from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeExperts, Qwen2MoeMLP, Qwen2MoeTopKRouter
from transformers.utils.output_capturing import OutputRecorder

from .configuration_deepseek import DeepseekConfig

# `mlp.experts.N.{gate,up,down}_proj.weight` on disk, one tensor per projection in memory, as Qwen2-MoE has it.
register_checkpoint_conversion_mapping(
    DeepseekConfig.model_type, get_checkpoint_conversion_mapping("qwen2_moe"), overwrite=True
)


class DeepseekMoE(nn.Module):
    """One MoE layer: what the shared experts and the chosen routed experts make of each token, added up."""

    def __init__(self, config: DeepseekConfig):
        super().__init__()
        self.gate = Qwen2MoeTopKRouter(config)
        self.experts = Qwen2MoeExperts(config)
        self.shared_experts = None
        if config.n_shared_experts:
            self.shared_experts = Qwen2MoeMLP(config, config.moe_intermediate_size * config.n_shared_experts)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        tokens = hidden_states.flatten(0, 1)  # [B * T, D]
        _, weights, indices = self.gate(tokens)  # [B * T, k] each
        output = self.experts(tokens, indices, weights).view_as(hidden_states)  # [B, T, D]
        return output if self.shared_experts is None else output + self.shared_experts(hidden_states)


class DeepseekModel(LlamaModel):
    """The DeepSeekMoE decoder without a language-model head."""

    config_class = DeepseekConfig
    _can_record_outputs = LlamaModel._can_record_outputs | {
        "router_logits": OutputRecorder(Qwen2MoeTopKRouter, index=0)
    }

    def __init__(self, config: DeepseekConfig):
        super().__init__(config)
        for index, layer in enumerate(self.layers):
            if config.is_moe_layer(index):
                layer.mlp = DeepseekMoE(config)
        self.post_init()

    @classmethod
    def _can_set_experts_implementation(cls) -> bool:
        # transformers looks for the experts class in this module's source; it is imported here
        return True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, Qwen2MoeTopKRouter):
            init.normal_(module.weight, std=self.config.initializer_range)
        elif isinstance(module, Qwen2MoeExperts):
            init.normal_(module.gate_up_proj, std=self.config.initializer_range)
            init.normal_(module.down_proj, std=self.config.initializer_range)
