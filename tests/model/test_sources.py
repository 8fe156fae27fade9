"""HS of attention and RW as log-ratios, on every architecture: against what its own modules give for a text alone."""

from dataclasses import replace

import numpy as np
import pytest
import reference
import torch
from support.tiny_backbones import GEMMA, HIDDEN, LAYERS, SUPPORTED, tiny_config, tiny_model

from moee_hf import MoEEConfig, MoEEModel
from moee_hf.model.backbone_moee import text_model_of
from moee_hf.model.inference_moee import pad, run_batch, run_prefix, wanted_of
from moee_hf.model.prefix_moee import can_cache_prefix

POOLINGS = ("lasttoken", "mean", "weightedmean")
GENERATOR = torch.Generator().manual_seed(3)
HEAD = [5, 6, 7, 8]
IDS = [HEAD + torch.randint(4, 90, (length,), generator=GENERATOR).tolist() for length in (6, 2, 4)]

# the attention blocks of the text model by name, where they are not layers.0.self_attn and so on
EVERY_SECOND = [
    "layers.1.self_attn",
    "layers.3.self_attn",
]  # between them state spaces, convolutions, linear attention
LAST = ["layers.3.self_attn"]
BLOCKS = {
    **dict.fromkeys(("bailing_hybrid", "granitemoehybrid", "jamba", "kimi_linear", "lfm2_moe"), EVERY_SECOND),
    **dict.fromkeys(("lfm2_vl[lfm2_moe]", "qwen4_exp", "qwen4_exp_text"), EVERY_SECOND),
    **dict.fromkeys(("glm5_next", "glm5_next_text", "qwen3_5_moe", "qwen3_5_moe_text", "qwen3_next"), LAST),
    "dbrx": [f"blocks.{layer}.norm_attn_norm.attn" for layer in range(LAYERS)],
    "jetmoe": [f"layers.{layer}.self_attention" for layer in range(LAYERS)],
    "longcat_flash": [f"layers.{layer}.self_attn.{number}" for layer in range(LAYERS) for number in (0, 1)],
    "nemotron_h": ["layers.2.mixer"],
    "switch_transformers": [f"block.{layer}.layer.0.SelfAttention" for layer in range(LAYERS)],
}
# without a v_proj in every attention block, of one width
WITHOUT_VALUES = {
    # latent attention, which unpacks keys and values from one vector
    *("axk1", "axk2", "bailing_hybrid", "deepseek_v2", "deepseek_v3", "deepseek_v32", "deepseek_v4", "dots3_note"),
    *("dots3_note_text", "glm4_moe_lite", "glm5_next", "glm5_next_text", "glm_moe_dsa", "hy_v4", "kimi_linear"),
    *("longcat_flash", "mistral4", "mistral_large4", "mistral_large4_text"),
    *("mistral3[mistral4]", "kimi_k25[deepseek_v3]"),
    # one projection for queries, keys and values, or for keys and values
    *("dbrx", "jetmoe", "minimax"),
    "zaya",  # values are made of two projections
    "switch_transformers",  # it has another name
    "mimo_v2_flash",  # blocks of two widths
}


def blocks_of(model_type):
    return BLOCKS.get(model_type, [f"layers.{layer}.self_attn" for layer in range(LAYERS)])


def given_alone(text_model, names):
    """What modules give for each text, read alone, by name: [T, size] in float64."""
    result = {name: [] for name in names}

    def hook(name):
        return lambda module, args, output: result[name].append(output[0] if isinstance(output, tuple) else output)

    hooks = [text_model.get_submodule(name).register_forward_hook(hook(name)) for name in names]
    with torch.no_grad():
        for ids in IDS:
            text_model(input_ids=torch.tensor([ids]), use_cache=False)
    for handle in hooks:
        handle.remove()
    return {name: [output[0].double().numpy() for output in outputs] for name, outputs in result.items()}


def assert_close(got, expected):
    """To 1e-5 of the largest value, as a sum over blocks has values above 1."""
    expected = torch.as_tensor(np.asarray(expected), dtype=torch.float32)
    torch.testing.assert_close(got, expected, atol=1e-5 * max(1.0, float(expected.abs().max())), rtol=0)


@pytest.mark.parametrize("model_type", SUPPORTED)
def test_every_architecture(model_type):
    model = tiny_model(model_type)
    blocks = blocks_of(model_type)
    projections = {"attention": blocks}
    if model_type not in WITHOUT_VALUES:
        projections["values"] = [f"{name}.v_proj" for name in blocks]
    assert list(model.config.hidden_sizes) == ["state", *projections]
    assert model.readable.num_attention_layers == len(blocks)
    names = [name for names in projections.values() for name in names]
    given = given_alone(text_model_of(model.model), names)
    judge = {"attention": reference.attention_read_out, "values": reference.mean_values}
    for pooling in POOLINGS:
        model.config.pooling = pooling
        wanted = replace(wanted_of(model), sources=tuple(projections), activations=("softmax", "clr"))
        plain = check_savings(model, wanted)
        for source, names in projections.items():
            expected = [
                judge[source]([given[name][row] for name in names], range(len(names)), pooling)
                for row in range(len(IDS))
            ]
            assert_close(plain.hidden[source], expected)
            assert plain.hidden[source].shape == (len(IDS), model.config.hidden_sizes[source])
    for source in projections:  # what is read may end a pass early
        check_savings(model, replace(wanted, sources=(source,), routers=(), pooling="lasttoken"))


@torch.no_grad()
def check_savings(model, wanted):
    """Assert that a lean pass, with and without a prefix, gives what a plain one does, which is returned."""
    plain = run_batch(model, pad(IDS), wanted)
    captures = [run_batch(model, pad(IDS), wanted, lean=True)]
    if can_cache_prefix(model.model):
        prefix = run_prefix(model, HEAD, wanted)
        captures.append(run_batch(model, pad([ids[len(HEAD) :] for ids in IDS]), wanted, lean=True, prefix=prefix))
    for capture in captures:
        for source in wanted.sources:
            assert_close(capture.hidden[source], plain.hidden[source])
        for activation in wanted.activations if wanted.routers else ():
            assert_close(capture.routing_weights(activation), plain.routing_weights(activation))
    return plain


@pytest.mark.parametrize("model_type", sorted(WITHOUT_VALUES & set(SUPPORTED)))
def test_values_that_are_not_found_are_refused(model_type):
    config = MoEEConfig(backbone_config=tiny_config(model_type), hidden_source="values")
    with pytest.raises(
        ValueError, match=r"MoEEConfig\.hidden_source: expected one of 'state', 'attention', .* 'values'"
    ):
        MoEEModel(config)


@pytest.mark.parametrize(
    "changes",
    [
        {"attention_k_eq_v": True},  # the values of full attention are its keys
        {"num_kv_shared_layers": 2},  # or those of an earlier layer
        {"global_head_dim": 16},  # or wider
    ],
    ids=str,
)
def test_gemma_without_values_in_every_block(changes):
    layer_types = ["sliding_attention", "full_attention"] * 2
    fields = GEMMA | {"enable_moe_block": True, "layer_types": layer_types} | changes
    model = MoEEModel(MoEEConfig(backbone_config=tiny_config("gemma4_text", **fields)))
    assert list(model.config.hidden_sizes) == ["state", "attention"]
    with pytest.raises(ValueError, match=r"hidden_source: .* finds in a gemma4_text backbone; got 'values'"):
        model.with_config(hidden_source="values")


@pytest.mark.parametrize("layers", [[0], [-1], [3, 1], None], ids=str)
@pytest.mark.parametrize("source", ["attention", "values"])
def test_attention_layers_choose_blocks(source, layers):
    model = tiny_model("granitemoehybrid" if layers in ([0], [-1]) else "olmoe")
    blocks = blocks_of(model.config.backbone_config.model_type)
    names = [name + ".v_proj" * (source == "values") for name in blocks]
    given = given_alone(text_model_of(model.model), names)
    model = model.with_config(hidden_source=source, attention_layers=layers, pooling="mean")
    chosen = range(len(names)) if layers is None else layers
    judge = reference.attention_read_out if source == "attention" else reference.mean_values
    expected = [judge([given[name][row] for name in names], chosen, "mean") for row in range(len(IDS))]
    with torch.no_grad():
        assert_close(model(**pad(IDS), combination="hs").embeddings, expected)
        assert_close(run_batch(model, pad(IDS), wanted_of(model), lean=True).hidden[source], expected)


def test_widths_follow_from_the_source():
    """Whose values have another width than a hidden state, as there are fewer heads of them."""
    model = tiny_model("olmoe").with_config(hidden_source="values", combination="concat")
    routing_size = model.config.router_shape[0] * model.config.router_shape[1]
    assert model.config.hidden_sizes == {"state": HIDDEN, "attention": HIDDEN, "values": HIDDEN // 2}
    assert (model.config.hidden_size, model.config.embedding_size) == (HIDDEN // 2, HIDDEN // 2 + routing_size)
    with torch.no_grad():
        assert model(**pad(IDS)).embeddings.shape == (len(IDS), HIDDEN // 2 + routing_size)
