"""The `deepseek` architecture against native ones that it contains as special cases."""

import pytest
import torch
from transformers import MixtralConfig, MixtralModel, Qwen2MoeConfig, Qwen2MoeModel

from moee_hf.model.configuration_deepseek import DeepseekConfig
from moee_hf.model.modeling_deepseek import DeepseekModel, DeepseekMoE

TINY = dict(
    hidden_size=32,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    vocab_size=100,
    rms_norm_eps=1e-6,
)
IDS = torch.arange(3, 15)[None]


def deepseek(**fields):
    config = DeepseekConfig(
        **TINY, intermediate_size=48, moe_intermediate_size=24, n_routed_experts=8, num_experts_per_tok=3, **fields
    )
    return DeepseekModel(config).eval()


def states(model):
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).last_hidden_state


def scatter(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.copy_(torch.randn(weight.shape, generator=generator) * weight.shape[-1] ** -0.5)
    return model


def test_without_shared_experts_and_renormalised_it_is_mixtral():
    ours = scatter(deepseek(n_shared_experts=None, norm_topk_prob=True, first_k_dense_replace=0))
    config = MixtralConfig(
        **TINY, intermediate_size=24, num_local_experts=8, num_experts_per_tok=3, sliding_window=None
    )
    config.rope_parameters = ours.config.rope_parameters
    theirs = MixtralModel(config).eval()
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(states(ours), states(theirs), atol=1e-5, rtol=0)


def test_with_shared_experts_it_is_a_qwen2_moe_with_an_open_gate():
    """Qwen2-MoE weighs its shared expert by a sigmoid gate; at 1/2, twice the output is DeepSeek's."""
    ours = scatter(deepseek(n_shared_experts=2, first_k_dense_replace=2))
    config = Qwen2MoeConfig(
        **TINY, intermediate_size=48, moe_intermediate_size=24, shared_expert_intermediate_size=48, num_experts=8,
        num_experts_per_tok=3, qkv_bias=False, mlp_only_layers=[0, 1],
    )  # fmt: skip
    config.rope_parameters = ours.config.rope_parameters
    theirs = Qwen2MoeModel(config).eval()
    weights = {name.replace("shared_experts", "shared_expert"): weight for name, weight in ours.state_dict().items()}
    for layer in (2, 3):
        mlp = f"layers.{layer}.mlp"
        weights[f"{mlp}.shared_expert_gate.weight"] = torch.zeros(1, 32)
        weights[f"{mlp}.shared_expert.down_proj.weight"] = 2 * weights[f"{mlp}.shared_expert.down_proj.weight"]
    theirs.load_state_dict(weights)
    torch.testing.assert_close(states(ours), states(theirs), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("fields", "moe_layers"),
    [
        ({"first_k_dense_replace": 1, "moe_layer_freq": 1}, [1, 2, 3]),
        ({"first_k_dense_replace": 2, "moe_layer_freq": 1}, [2, 3]),
        ({"first_k_dense_replace": 1, "moe_layer_freq": 2}, [2]),
        ({"first_k_dense_replace": 0, "moe_layer_freq": 3}, [0, 3]),
    ],
)
def test_which_layers_are_mixtures(fields, moe_layers):
    layers = deepseek(**fields).layers
    assert [i for i, layer in enumerate(layers) if isinstance(layer.mlp, DeepseekMoE)] == moe_layers


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("experts", ["eager", "grouped_mm", "batched_mm"])
def test_implementations_agree(attention, experts):
    model = scatter(deepseek())
    expected = states(model)
    model.set_attn_implementation(attention)
    model.set_experts_implementation(experts)
    torch.testing.assert_close(states(model), expected, atol=1e-5, rtol=0)


def test_experts_are_fused_by_default():
    assert deepseek().config._experts_implementation == "grouped_mm"


def test_other_scoring_functions_are_refused():
    with pytest.raises(ValueError, match=r"scoring_func: .* 'softmax'; got 'sigmoid'"):
        DeepseekConfig(scoring_func="sigmoid")


def test_parallel_plan_names_existing_weights():
    model = deepseek()
    names = {
        ".".join("*" if part.isdigit() else part for part in name.split(".")) for name, _ in model.named_modules()
    }
    names |= {
        ".".join("*" if part.isdigit() else part for part in name.split(".")) for name, _ in model.named_parameters()
    }
    for plan in (DeepseekConfig.base_model_tp_plan, DeepseekConfig.base_model_ep_plan):
        assert set(plan) <= names
