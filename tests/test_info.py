"""Full-size models from their configuration alone; the parameters are those that their authors publish."""

import json

import pytest
from support.tiny_backbones import tiny_config

from moee_hf import MoEEConfig, MoEEModel
from moee_hf.cli import main
from moee_hf.info import model_info

DEEPSEEK_V3 = dict(
    hidden_size=7168,
    num_hidden_layers=61,
    num_attention_heads=128,
    intermediate_size=18432,
    moe_intermediate_size=2048,
    n_routed_experts=256,
    num_experts_per_tok=8,
    first_k_dense_replace=3,
    vocab_size=129280,
)
QWEN3 = dict(
    hidden_size=2048,
    num_hidden_layers=48,
    num_attention_heads=32,
    num_key_value_heads=4,
    head_dim=128,
    num_experts=128,
    moe_intermediate_size=768,
    num_experts_per_tok=8,
    vocab_size=151936,
)
GPT_OSS = dict(
    hidden_size=2880,
    num_hidden_layers=24,
    num_attention_heads=64,
    num_key_value_heads=8,
    head_dim=64,
    num_local_experts=32,
    intermediate_size=2880,
    num_experts_per_tok=4,
    vocab_size=201088,
)
# model type, fields, MoE layers, experts, top k, width of HS, parameters with the head in billions: all, active
FULL_SIZE = {
    "OLMoE-1B-7B": ("olmoe", {"intermediate_size": 1024, "num_experts": 64}, 16, 64, 8, 2048, 6.92, 1.28),
    "Qwen1.5-MoE-A2.7B": ("qwen2_moe", {}, 24, 60, 4, 2048, 14.3, 2.7),
    "DeepSeekMoE-16B": ("deepseek", {}, 27, 64, 6, 2048, 16.4, 2.8),
    "Mixtral-8x7B": ("mixtral", {}, 32, 8, 2, 4096, 46.7, 12.9),
    "Qwen3-30B-A3B": ("qwen3_moe", QWEN3, 48, 128, 8, 2048, 30.5, 3.3),
    "gpt-oss-20b": ("gpt_oss", GPT_OSS, 24, 32, 4, 2880, 20.9, None),
    "DeepSeek-V3": ("deepseek_v3", DEEPSEEK_V3, 58, 256, 8, 7168, 671, 37.6),
}


@pytest.mark.parametrize("name", FULL_SIZE)
def test_full_size_models(name, tmp_path, capsys):
    model_type, fields, layers, experts, top_k, hidden, total, active = FULL_SIZE[name]
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type, **fields}))
    config = MoEEConfig.from_pretrained(tmp_path)
    info = model_info(config)
    assert (info.num_moe_layers, info.num_experts, info.top_k, info.hidden_size) == (layers, experts, top_k, hidden)
    both = hidden + layers * experts
    assert info.embedding_sizes == {"hs": hidden, "rw": layers * experts, "concat": both, "sum": both}
    head = hidden * config.get_text_config().vocab_size
    assert (info.parameters + head) / 1e9 == pytest.approx(total, rel=0.005)
    if active:
        assert (info.active_parameters + head) / 1e9 == pytest.approx(active, rel=0.02)

    for source in (tmp_path, tmp_path / "config.json"):
        assert main(["info", str(source)]) == 0
        printed = capsys.readouterr().out
        assert f"{layers} MoE layers x {experts} experts, {top_k} per token" in printed
        assert f"hs {hidden}, rw {layers * experts}, concat {both}, sum {both}" in printed
        assert f"{info.parameters / 1e9:.2f} B" in printed


@pytest.mark.parametrize(
    ("name", "fits", "not_"),
    [
        (
            "Qwen1.5-MoE-A2.7B",
            "pgvector halfvec (4,000), Elasticsearch (4,096), OpenSearch (16,000)",
            "vector (2,000)",
        ),
        ("DeepSeek-V3", "none but not Lucene (1,024), pgvector vector (2,000)", "OpenSearch (16,000)"),
    ],
)
def test_indexes_that_a_width_fits(name, fits, not_, tmp_path, capsys):
    model_type, fields, *_ = FULL_SIZE[name]
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type, **fields}))
    assert main(["info", str(tmp_path)]) == 0
    (row,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("fits "))
    assert row.removeprefix("fits").strip().startswith(fits)
    assert row.endswith(not_)


def test_active_parameters_are_those_that_one_token_visits():
    """Counted by hand on a tiny OLMoE: 4 layers, 2 of 8 experts of 3 x 32 x 48 weights each."""
    config = MoEEConfig(backbone_config=tiny_config("olmoe"))
    info = model_info(config)
    assert info.parameters == sum(weight.numel() for weight in MoEEModel(config).model.parameters())
    assert info.parameters - info.active_parameters == 4 * 6 * 3 * 32 * 48


def test_unknown_number_of_visited_experts_is_not_guessed(capsys, tmp_path):
    tiny_config("switch_transformers").save_pretrained(tmp_path)
    assert model_info(MoEEConfig.from_pretrained(tmp_path)).active_parameters is None
    assert main(["info", str(tmp_path)]) == 0
    assert "active unknown" in capsys.readouterr().out
