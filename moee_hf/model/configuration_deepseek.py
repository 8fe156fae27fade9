"""Configuration of the `deepseek` architecture (DeepSeekMoE-16B), which transformers does not carry."""

from typing import Any

from transformers import LlamaConfig


class DeepseekConfig(LlamaConfig):
    """A Llama decoder whose feed-forward layers are mixtures of experts (DeepSeekMoE, arXiv 2401.06066).

    The defaults are those of `deepseek-ai/deepseek-moe-16b-base`; the fields of `LlamaConfig` keep their meaning.

    Args:
        n_routed_experts: Experts that the router chooses from in each MoE layer.
        n_shared_experts: Experts that every token visits; None for none.
        num_experts_per_tok: Routed experts that each token visits.
        moe_intermediate_size: Inner width of one expert; `intermediate_size` is that of a dense layer.
        first_k_dense_replace: The first layers that stay dense.
        moe_layer_freq: From there on, the layers whose index is a multiple of this are MoE layers.
        norm_topk_prob: Whether the weights of the chosen experts are rescaled to sum to 1.
        scoring_func: How router logits become weights; the architecture knows `"softmax"` alone.
    """

    model_type = "deepseek"
    attribute_map = {"num_experts": "n_routed_experts"}
    base_model_tp_plan = LlamaConfig.base_model_tp_plan | {
        "layers.*.mlp.experts.gate_up_proj": "packed_colwise",
        "layers.*.mlp.experts.down_proj": "rowwise",
        "layers.*.mlp.experts": "moe_tp_experts",
        "layers.*.mlp.shared_experts.gate_proj": "colwise",
        "layers.*.mlp.shared_experts.up_proj": "colwise",
        "layers.*.mlp.shared_experts.down_proj": "rowwise",
    }
    base_model_ep_plan = {
        "layers.*.mlp.experts.gate_up_proj": "grouped_gemm",
        "layers.*.mlp.experts.down_proj": "grouped_gemm",
        "layers.*.mlp.experts": "ep_dispatch_experts",
    }

    vocab_size: int = 102400
    hidden_size: int = 2048
    intermediate_size: int = 10944
    num_hidden_layers: int = 28
    num_attention_heads: int = 16
    max_position_embeddings: int = 4096
    bos_token_id: int | None = 100000
    eos_token_id: int | list[int] | None = 100001
    n_routed_experts: int = 64
    n_shared_experts: int | None = 2
    num_experts_per_tok: int = 6
    moe_intermediate_size: int = 1408
    first_k_dense_replace: int = 1
    moe_layer_freq: int = 1
    norm_topk_prob: bool = False
    scoring_func: str = "softmax"

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.scoring_func != "softmax":
            raise ValueError(
                "DeepseekConfig.scoring_func: for the deepseek architecture, expected 'softmax'; got "
                f"{self.scoring_func!r}. A checkpoint that scores otherwise is of another architecture: give its own "
                "model_type."
            )

    def is_moe_layer(self, index: int) -> bool:
        """Whether decoder layer `index` (from 0) is a mixture of experts."""
        return index >= self.first_k_dense_replace and index % self.moe_layer_freq == 0
