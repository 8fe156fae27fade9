"""Every architecture: HS against the backbone run alone, RW against the router's own input and weights."""

import pytest
import torch
import torch.nn.functional as F
import transformers
from packaging.version import Version
from support.common import assert_same
from support.tiny_backbones import EXPERTS, HIDDEN, LAYERS, SUPPORTED, tiny_config, tiny_model
from transformers import CONFIG_MAPPING, LlamaConfig, OlmoeConfig

from moee_hf import MoEEConfig, MoEEModel, UnsupportedBackboneError
from moee_hf.model.backbone_moee import (
    QUIRKS,
    REFUSED,
    _num_rows,
    can_run_side_by_side,
    find_routers,
    text_model_of,
)
from moee_hf.model.batching_moee import Batches
from moee_hf.model.inference_moee import raw_of, run_texts, wanted_of

GENERATOR = torch.Generator().manual_seed(1)
TEXTS = [torch.randint(4, 90, (length,), generator=GENERATOR) for length in (9, 5, 7)]


def expected_logits(text, router, x, state):
    """W x + b of one router for its input, [T, E]; the few that are more than that, replayed from their definition."""
    kind = type(router).__name__
    x = x.reshape(-1, x.shape[-1])
    if kind == "Gemma4TextRouter":
        return F.linear(router.norm(x) * router.scale * router.hidden_size**-0.5, router.proj.weight)
    if kind == "ZayaRouter":  # a state runs from router to router
        state["eda"] = router.down_proj(x) + (state["eda"] * router.router_states_scale if router.use_eda else 0)
        return router.router_mlp(state["eda"])
    if kind == "InklingTopkRouter":  # the last rows score the shared experts
        return F.linear(x, router.weight)[:, :EXPERTS]
    if kind == "Ernie4_5_VLMoeMoeBlock":
        return F.linear(x, router.text_moe.gate.weight)
    if kind == "MuseSparkTopkRouter":
        return F.linear(x, router.weight) * text.config.output_multiplier
    if kind == "SwitchTransformersTop1Router":
        return F.linear(x, router.classifier.weight)
    holder = next(
        m for m in (router, *router.children()) if isinstance(getattr(m, "weight", None), torch.nn.Parameter)
    )
    return F.linear(x.to(holder.weight.dtype), holder.weight, getattr(holder, "bias", None))


@pytest.fixture(scope="module", params=SUPPORTED)
def drawn(request) -> MoEEModel:
    """A tiny model of every architecture, the same for each of its tests."""
    return tiny_model(request.param)


def test_hidden_states_and_routing_weights(drawn):
    model = drawn.with_config()
    text = text_model_of(model.model)
    routers = [router for router, _ in find_routers(model.model)]
    inputs = {}
    hooks = [r.register_forward_pre_hook(lambda m, args: inputs.__setitem__(m, args[0].detach())) for r in routers]
    alone = []
    for ids in TEXTS:
        with torch.no_grad():
            output = model(input_ids=ids[None])
            state = {}
            logits = [expected_logits(text, router, inputs[router], state) for router in routers]
            expected = torch.stack([x.reshape(len(ids), -1)[-1].softmax(-1) for x in logits])
            backbone = text(input_ids=ids[None]).last_hidden_state
        torch.testing.assert_close(output.router_weights[0], expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(output.pooled_hidden_state[0], backbone[0, -1], atol=1e-5, rtol=0)
        alone.append(output)
    # of the last text: the mean over tokens of logits less their mean, which for large ones is all but zero in weights
    with torch.no_grad():
        centred = model.with_config(router_activation="clr", pooling="mean")
        ratios = centred(input_ids=TEXTS[-1][None]).router_weights[0]
    expected = torch.stack([(x - x.mean(dim=-1, keepdim=True)).reshape(-1, x.shape[-1]).mean(dim=0) for x in logits])
    torch.testing.assert_close(ratios, expected, atol=1e-5 * max(1, float(expected.abs().max())), rtol=0)
    for hook in hooks:
        hook.remove()

    assert model.config.router_shape == list(output.router_weights.shape[1:])
    assert model.config.hidden_size == output.pooled_hidden_state.shape[1] == HIDDEN
    assert model.config.embedding_size == output.embeddings.shape[1]

    # padded on either side, the batch gives what each text gives alone
    length = max(map(len, TEXTS))
    for side in ("left", "right"):
        ids, mask = torch.full((len(TEXTS), length), 7), torch.zeros(len(TEXTS), length)
        for row, tokens in enumerate(TEXTS):
            place = slice(length - len(tokens), length) if side == "left" else slice(0, len(tokens))
            ids[row, place], mask[row, place] = tokens, 1
        with torch.no_grad():
            batch = model(input_ids=ids, attention_mask=mask)
        for row, single in enumerate(alone):
            torch.testing.assert_close(batch.embeddings[row], single.embeddings[0], atol=2e-5, rtol=0)


def test_passes_beside_each_other_give_what_each_gives_alone(drawn):
    """On a processor, batches run in threads: no pass may change what another reads."""
    if not can_run_side_by_side(drawn.model):
        pytest.skip("its passes run one by one")
    ids = [torch.randint(4, 90, (3 + index % 9,), generator=GENERATOR).tolist() for index in range(12)]
    wanted = wanted_of(drawn)
    with torch.inference_mode():
        alone = {tuple(places): raw_of(capture) for places, capture in run_texts(drawn, ids, wanted, Batches(24))}
        found = {
            tuple(places): raw_of(capture) for places, capture in run_texts(drawn, ids, wanted, Batches(24, at_once=4))
        }
    assert alone.keys() == found.keys()
    assert len(alone) > 2
    for places, vectors in alone.items():
        torch.testing.assert_close(found[places], vectors, atol=1e-5, rtol=1e-5)


def test_hidden_layers(drawn):
    """A hidden layer is the `hidden_states` of transformers, where an architecture has one state per token."""
    model = drawn.with_config()
    with torch.no_grad():
        states = text_model_of(model.model)(input_ids=TEXTS[0][None], output_hidden_states=True).hidden_states
    assert len(states) == model.readable.num_layers + 1
    for layer, state in enumerate(states):
        model.config.hidden_layer = layer
        with torch.no_grad():
            if state.ndim == 3:
                hidden = model(input_ids=TEXTS[0][None]).pooled_hidden_state
                torch.testing.assert_close(hidden[0], state[0, -1], atol=1e-6, rtol=0)
            else:
                with pytest.raises(ValueError, match="hidden_layer: expected one hidden state per token"):
                    model(input_ids=TEXTS[0][None])


def test_saved_model_loads_equal(drawn, tmp_path):
    drawn.save_pretrained(tmp_path)
    again = MoEEModel.from_pretrained(tmp_path)
    weights, saved = drawn.state_dict(), again.state_dict()
    assert weights.keys() == saved.keys()
    assert all(torch.equal(weight, saved[name]) for name, weight in weights.items())
    with torch.no_grad():
        assert_same(again(input_ids=TEXTS[0][None]).embeddings, drawn(input_ids=TEXTS[0][None]).embeddings)


# quirks that a later transformers has not; their rows go when it is the lowest that is supported
CAUGHT_UP = {"jetmoe": "5.24"}


def test_quirks_are_real():
    """A row of the table that transformers has caught up with should go."""
    for model_type in QUIRKS.keys() & {*CONFIG_MAPPING, "deepseek"}:
        if Version(transformers.__version__) >= Version(CAUGHT_UP.get(model_type, "6")):
            continue
        composite = "ernie4_5_vl_moe" if model_type == "ernie4_5_vl_moe_text" else model_type
        model = MoEEModel(MoEEConfig(backbone_config=tiny_config(composite)))
        text = text_model_of(model.model)
        with torch.no_grad():
            recorded = text(input_ids=TEXTS[0][None], output_router_logits=True).router_logits
        quirk = QUIRKS[model_type]
        if quirk.classes:
            assert len(recorded) != model.config.router_shape[0]
        if quirk.returns_probabilities:
            assert torch.allclose(recorded[0].sum(-1), torch.ones(len(TEXTS[0])))
        for name, value in quirk.required_config.items():
            assert getattr(text.config, name) == value
        if quirk.num_experts_attr:
            assert _num_rows(find_routers(model.model)[0][0]) != recorded[0].shape[-1]


def test_routers_that_hand_out_probabilities_have_no_logits():
    model = MoEEModel(MoEEConfig(backbone_config=tiny_config("gemma4_text"), router_activation="logits"))
    with pytest.raises(
        ValueError, match=r"router_activation: expected 'softmax' or 'clr', .* probabilities alone; got 'logits'"
    ):
        model(input_ids=TEXTS[0][None])


def test_one_router_per_moe_layer():
    """The layers that transformers' recorder leaves out or counts twice."""
    rows = {
        t: MoEEModel(MoEEConfig(backbone_config=tiny_config(t))).config.router_shape for t in ("deepseek_v4", "jetmoe")
    }
    assert rows == {"deepseek_v4": [LAYERS, EXPERTS], "jetmoe": [2 * LAYERS, EXPERTS]}


@pytest.mark.parametrize("model_type", sorted(REFUSED.keys() & CONFIG_MAPPING.keys()))
def test_refused_by_name(model_type):
    with pytest.raises(UnsupportedBackboneError, match=rf"MoEE cannot use a {model_type} backbone: .* use "):
        MoEEModel(MoEEConfig(backbone_config=tiny_config(model_type)))


def test_capacity_that_texts_would_share_is_refused():
    with pytest.raises(UnsupportedBackboneError, match=r"expected moe_eval_capacity_token_fraction=1.0, .*; got 0.25"):
        MoEEModel(MoEEConfig(backbone_config=tiny_config("nllb-moe", moe_eval_capacity_token_fraction=0.25)))


def test_dense_models_are_refused():
    """Before a byte is spent on their weights: this one would take 500 GB."""
    huge = LlamaConfig(hidden_size=16384, intermediate_size=65536, num_hidden_layers=32, num_attention_heads=128)
    with pytest.raises(UnsupportedBackboneError, match=r"this llama backbone: it is dense.*sentence-transformers"):
        MoEEModel(MoEEConfig(backbone_config=huge))


@pytest.mark.parametrize(
    ("model_type", "dense"),
    [
        ("qwen2_moe", {"mlp_only_layers": list(range(LAYERS))}),
        ("deepseek", {"first_k_dense_replace": LAYERS}),
        ("gemma4_text", {"enable_moe_block": False}),
    ],
)
def test_moe_types_without_a_moe_layer_are_refused(model_type, dense):
    with pytest.raises(
        UnsupportedBackboneError, match=f"this {model_type} backbone: .*this configuration has no MoE layer"
    ):
        MoEEModel(MoEEConfig(backbone_config=tiny_config(model_type, **dense)))


def test_unknown_architecture_is_refused_by_name():
    with pytest.raises(
        ValueError, match=r"expected the model_type of an architecture in transformers.*got 'no_such_moe'"
    ):
        MoEEConfig(backbone_config={"model_type": "no_such_moe"})


def test_default_backbone_is_the_papers_olmoe():
    assert isinstance(MoEEConfig().backbone_config, OlmoeConfig)
