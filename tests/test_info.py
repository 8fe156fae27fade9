"""Full-size models from their configuration alone; the parameters are those that their authors publish."""

import pytest
import torch
from support import full_size, update_docs
from support.common import ROOT
from support.tiny_backbones import tiny_config

from moee_hf import MoEEConfig, MoEEModel
from moee_hf.cli import main
from moee_hf.info import CARDS, model_info
from moee_hf.model.choices_moee import QUANTIZATIONS

# MoE layers, experts, top k, width of HS, inner width of an expert, parameters with the head in billions: all, active
PUBLISHED = {
    "olmoe-1b-7b": (16, 64, 8, 2048, 1024, 6.92, 1.28),
    "qwen1.5-moe-a2.7b": (24, 60, 4, 2048, 1408, 14.3, 2.7),
    "deepseek-moe-16b": (27, 64, 6, 2048, 1408, 16.4, 2.8),
    "deepseek-v2-lite": (26, 64, 6, 2048, 1408, 15.7, None),
    "mixtral-8x7b": (32, 8, 2, 4096, 14336, 46.7, 12.9),
    "phi-3.5-moe": (32, 16, 2, 4096, 6400, 41.9, 6.6),
    "qwen3-30b-a3b": (48, 128, 8, 2048, 768, 30.5, 3.3),
    "gpt-oss-20b": (24, 32, 4, 2880, 2880, 20.9, None),
    "deepseek-v3": (58, 256, 8, 7168, 2048, 671, 37.6),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_full_size_models(name, tmp_path, capsys):
    layers, experts, top_k, hidden, inner, total, active = PUBLISHED[name]
    folder = full_size.write(tmp_path, name)
    config = MoEEConfig.from_pretrained(folder)
    info = model_info(config)
    assert (info.num_moe_layers, info.num_experts, info.top_k, info.hidden_size) == (layers, experts, top_k, hidden)
    both = hidden + layers * experts
    assert info.embedding_sizes == {"hs": hidden, "rw": layers * experts, "concat": both, "sum": both}
    head = hidden * config.get_text_config().vocab_size
    assert (info.parameters + head) / 1e9 == pytest.approx(total, rel=0.005)
    if active:
        assert (info.active_parameters + head) / 1e9 == pytest.approx(active, rel=0.02)

    for source in (folder, folder / "config.json"):
        assert main(["info", str(source)]) == 0
        printed = capsys.readouterr().out
        assert f"{layers} MoE layers x {experts} experts, {top_k} per token" in printed
        assert f"hs {hidden}, rw {layers * experts}, concat {both}, sum {both}" in printed
        assert f"{info.parameters / 1e9:.2f} B" in printed

    # three matrices an expert, in two tensors; gpt-oss has them transposed, so its rows are others
    of_layer = experts * 3 * hidden * inner
    rows = layers * experts * (hidden + (inner if name == "gpt-oss-20b" else 2 * inner))
    weights = layers * of_layer
    others = 2 * (info.parameters - weights)
    expected = {
        "float32": (4 * info.parameters, 0),
        "bfloat16": (2 * info.parameters, 0),
        "nf4": (others + weights // 2 + 4 * weights // 64, 2 * of_layer),
        "fp8": (others + weights + 4 * rows, 2 * of_layer),
        "int8": (others + weights + 5 * rows, 2 * of_layer),
    }
    rows_of_table = dict(line.split(maxsplit=1) for line in printed.splitlines()[-len(expected) :])
    for quantization, (num_bytes, layer) in expected.items():
        free = [card for card in CARDS if num_bytes + layer + 2e9 <= card * 1e9]
        cards = f"{', '.join(map(str, free))} GB" if free else "none of 80 GB"
        sizes = [f"{size / 2**30:.2f} GiB" for size in (num_bytes, layer) if size]
        assert " ".join(rows_of_table[quantization].split()) == f"{' '.join(sizes)} {cards}"
        if quantization in QUANTIZATIONS:
            assert info.memory(torch.bfloat16, quantization) == num_bytes


def test_what_the_paper_had_fits_one_card_of_24_gb():
    cards = {
        (name, quantization): model_info(full_size.config_of(name)).cards(torch.bfloat16, quantization)
        for name in ("deepseek-moe-16b", "qwen3-30b-a3b", "mixtral-8x7b")
        for quantization in (None, "nf4")
    }
    fit = {key for key, of_model in cards.items() if 24 in of_model}
    assert fit == {("deepseek-moe-16b", "nf4"), ("qwen3-30b-a3b", "nf4")}


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_say_what_their_backbones_need(path):
    first, *_ = path.read_text(encoding="utf-8").splitlines()
    assert first == update_docs.memory_comment(path.stem), "run tests/support/update_docs.py"


@pytest.mark.parametrize(
    ("model_type", "formats"),
    [
        ("llava[mixtral]", ["nf4", "fp8", "int8"]),
        ("inkling_text", ["nf4", "fp8", "int8"]),
        ("llama4_text", ["nf4"]),
        ("jetmoe", ["nf4"]),
        ("dbrx", []),
        ("switch_transformers", []),
    ],
)
def test_formats_that_experts_can_have(model_type, formats, tmp_path, capsys):
    """Those of an architecture with experts of its own are fewer, and those of one with linear layers none."""
    tiny_config(model_type).save_pretrained(tmp_path)
    assert list(model_info(MoEEConfig.from_pretrained(tmp_path)).experts) == formats
    assert main(["info", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[-len(formats) - 2 :]] == ["float32", "bfloat16", *formats]


def test_a_repository_of_any_kind_has_the_same_table(tmp_path, capsys):
    """A plain checkpoint, a saved model, a reference to one on the Hub, and what is quantized already."""
    config, folders = tiny_config("gpt_oss"), [tmp_path / name for name in ("plain", "saved", "reference", "mxfp4")]
    config.save_pretrained(folders[0])
    MoEEConfig(backbone_config=config).save_pretrained(folders[1])
    reference = MoEEConfig(backbone_config=config, base_model_name_or_path="you/base", base_model_revision="0" * 40)
    reference.save_pretrained(folders[2])
    config.quantization_config = {"quant_method": "mxfp4", "modules_to_not_convert": []}
    MoEEConfig(backbone_config=config).save_pretrained(folders[3])
    printed = []
    for folder in folders:
        assert main(["info", str(folder)]) == 0
        printed.append(capsys.readouterr().out.splitlines())
    assert printed[0] == printed[1] == printed[2]
    assert printed[3][0] == f"{printed[0][0]}, quantized by mxfp4"
    assert printed[3][1:] == printed[0][1:]


@pytest.mark.parametrize(
    ("name", "fits", "not_"),
    [
        (
            "qwen1.5-moe-a2.7b",
            "pgvector halfvec (4,000), Elasticsearch (4,096), OpenSearch (16,000)",
            "vector (2,000)",
        ),
        ("deepseek-v3", "none but not Lucene (1,024), pgvector vector (2,000)", "OpenSearch (16,000)"),
    ],
)
def test_indexes_that_a_width_fits(name, fits, not_, tmp_path, capsys):
    assert main(["info", str(full_size.write(tmp_path, name))]) == 0
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
