"""A dense model as a mixture of experts: a tiny one, on a corpus of some thousand words."""

import argparse
import json
from collections import Counter

import pytest
import torch
from safetensors.torch import load_file
from support.common import TEXTS
from support.upcycling import (
    DENSE,
    SHAPE,
    SIZES,
    documents,
    random_parts,
    save_dense,
    tiny_dense,
    tiny_tokenizer,
)
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen2MoeForCausalLM,
)
from upcycle_embedded import main
from upcycling_data import HELD_OUT, TEMPLATES, batch, plain_sentences, read_corpus
from upcycling_distillation import hidden_states, load_entropy
from upcycling_model import Sizes, check_dense, mixtures, to_checkpoint, to_mixture
from upcycling_partition import deal_out, first_router, neuron_activity, partition
from upcycling_training import schedule, train_step

from moee_hf import MoEEModel
from moee_hf.model.prompts_moee import PROMPTS

FLAGS = "--shared 64 --experts 4 --expert-size 32 --experts-per-token 2 --text 2 --length 64 --prompts 4 --steps 6"
IDS = torch.randint(SHAPE["vocab_size"], (3, 20), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    (folder / "corpus.txt").write_text("\n".join(documents(0, 100)) + "\n")
    return ["--dense", str(save_dense(folder / "dense")), "--corpus", str(folder / "corpus.txt")]


@pytest.fixture
def run(sources, tmp_path, monkeypatch, capsys):
    def run(name, *arguments, stop_at=None):
        """Run the script; `stop_at` kills it before that step."""

        def step_or_die(model, dense, optimizer, data, step, arguments):
            if step == stop_at:
                raise KeyboardInterrupt
            return train_step(model, dense, optimizer, data, step, arguments)

        work = str(tmp_path / f"{name}-work")
        with monkeypatch.context() as patch:
            patch.setattr("upcycling_training.train_step", step_or_die)
            code = main([str(tmp_path / name), *sources, *FLAGS.split(), "--work", work, "--every", "2", *arguments])
        return code, tmp_path / name, capsys.readouterr()

    return run


def logits(model, ids=IDS):
    with torch.no_grad():
        return model(ids).logits


def assert_close(got, expected):
    assert (got - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("name", DENSE)
def test_with_all_experts_on_it_computes_the_dense_model(name, tmp_path):
    dense = tiny_dense(name)
    parts = [random_parts(seed, router=0) for seed in (0, 1)]
    model = to_mixture(dense, parts, experts_per_token=SIZES.experts)
    assert_close(logits(model), logits(dense))
    to_checkpoint(model).save_pretrained(tmp_path)
    assert_close(logits(Qwen2MoeForCausalLM.from_pretrained(tmp_path)), logits(dense))


@pytest.mark.parametrize("name", DENSE)
def test_hidden_states_are_those_of_transformers(name):
    dense = tiny_dense(name)
    expected = dense(IDS, output_hidden_states=True).hidden_states
    states = hidden_states(dense, IDS)
    assert len(states) == len(expected) == 3
    for got, state in zip(states, expected, strict=True):
        assert_close(got, state)


def test_without_mix_it_computes_the_dense_model_whatever_the_routers_say():
    dense = tiny_dense()
    model = to_mixture(dense, [random_parts(seed, router=1) for seed in (0, 1)], SIZES.experts_per_token)
    assert (logits(model) - logits(dense)).abs().max() > 0.1
    for mlp in mixtures(model):
        mlp.mix.fill_(0.0)
    assert_close(logits(model), logits(dense))


@pytest.mark.parametrize("name", DENSE)
def test_the_checkpoint_computes_what_was_trained(name, tmp_path):
    model = to_mixture(tiny_dense(name), [random_parts(seed, router=1) for seed in (0, 1)], SIZES.experts_per_token)
    for mlp in mixtures(model):
        torch.nn.init.normal_(mlp.shared_gate)
    to_checkpoint(model).save_pretrained(tmp_path)
    loaded, report = Qwen2MoeForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    assert_close(logits(loaded), logits(model))


def test_neurons_that_fire_together_form_an_expert():
    generator = torch.Generator().manual_seed(0)
    sizes, order = Sizes(8, 6, 4, 2), torch.randperm(32, generator=generator)
    shared, planted = order[:8], order[8:].reshape(6, 4)
    activity = 0.1 * torch.rand(500, 32, generator=generator)
    activity[:, shared] += 2
    for group in planted:
        activity[:, group] += (torch.rand(500, 1, generator=generator) < 0.3).float()
    found_shared, found = deal_out(activity, sizes, torch.Generator().manual_seed(1))
    assert found_shared.tolist() == sorted(shared.tolist())
    assert sorted(found.tolist()) == sorted(sorted(group.tolist()) for group in planted)


def test_the_partition_has_each_neuron_once_and_the_most_active_ones_shared():
    dense = tiny_dense()
    parts = partition(dense, IDS, SIZES, seed=0)
    for shared, experts in zip(parts["shared"], parts["experts"], strict=True):
        assert sorted([*shared.tolist(), *experts.flatten().tolist()]) == list(range(192))
    # of the first layer, whose input is computed by hand; of every fourth token, and not the first
    layer, x = dense.model.layers[0], dense.model.embed_tokens(IDS)
    rotary = dense.model.rotary_emb(x, torch.arange(x.shape[1])[None])
    x = x + layer.self_attn(layer.input_layernorm(x), position_embeddings=rotary, attention_mask=None)[0]
    activity = neuron_activity(layer.mlp, layer.post_attention_layernorm(x)[:, 1::4].flatten(0, 1)).mean(dim=0)
    assert set(parts["shared"][0].tolist()) == set(activity.topk(SIZES.shared).indices.tolist())


def test_the_first_router_foretells_what_experts_do():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(400, 16, generator=generator)
    energies = 5 + inputs @ torch.randn(16, 3, generator=generator)
    foretold = inputs @ first_router(inputs, energies).T
    assert all(torch.corrcoef(torch.stack(pair))[0, 1] > 0.99 for pair in zip(foretold.T, energies.T, strict=True))
    assert foretold.std(dim=0) == pytest.approx([0.5] * 3, rel=0.05)


def test_a_run_that_was_killed_ends_with_the_same_weights(run):
    code, whole, _ = run("whole")
    assert code == 0
    with pytest.raises(KeyboardInterrupt):
        run("killed", stop_at=5)
    code, resumed, captured = run("killed")
    assert code == 0
    assert "goes on from step 4" in captured.err
    expected, weights = load_file(whole / "model.safetensors"), load_file(resumed / "model.safetensors")
    assert expected.keys() == weights.keys()
    assert all(torch.equal(expected[name], weights[name]) for name in expected)
    assert (whole / "training.json").read_text() == (resumed / "training.json").read_text()


def test_the_result_is_a_plain_checkpoint_with_a_record(run, sources):
    code, folder, captured = run("model")
    assert code == 0
    model = MoEEModel.from_pretrained(folder)
    assert model.config.router_shape == [2, 4]
    assert model.encode(TEXTS).shape == (len(TEXTS), 64 + 2 * 4)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert all(tokenizer.decode(tokenizer(text)["input_ids"]) == text for text in TEXTS)
    record = json.loads(captured.out)
    assert record["settings"]["steps"] == 6
    assert [point["step"] for point in record["curve"]] == [2, 4, 6]
    assert "step 6 of 6: divergence" in captured.err
    # the loss of what was saved, token by token, beside that of transformers
    held_out = "\n".join(documents(0, 100)).split("\n")[HELD_OUT - 1 :: HELD_OUT]
    ids = [i for text in held_out for i in [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]]
    rows = torch.tensor(ids[: len(ids) // 64 * 64]).reshape(-1, 64)
    assert record["held_out"]["tokens"] == rows[:, 1:].numel()
    for name, source in (("loss", folder), ("dense_loss", sources[1])):
        loss = AutoModelForCausalLM.from_pretrained(source)(rows, labels=rows).loss.item()
        assert record["held_out"][name] == pytest.approx(loss, rel=1e-4)
    assert len(record["held_out"]["load_entropy"]) == 2


def test_training_brings_it_nearer_to_the_dense_model(run):
    flags = ("--text", "4", "--prompts", "8", "--every", "40", "--learning-rate", "0.0005", "--final-balance", "0")
    still, trained = (
        json.loads(run(f"{steps}", "--steps", steps, *flags)[2].out)["held_out"]["divergence"] for steps in ("1", "40")
    )
    assert trained < 0.9 * still


def test_the_weight_of_the_balance_evens_out_the_load(run):
    flags = ("--steps", "40", "--every", "40", "--learning-rate", "0.003")
    uneven, even = (
        min(json.loads(run(weight, *flags, "--final-balance", weight)[2].out)["held_out"]["load_entropy"])
        for weight in ("0", "5")
    )
    assert even > uneven + 0.05


def test_the_balance_weighs_more_towards_the_end_and_the_experts_come_in_little_by_little():
    arguments = argparse.Namespace(learning_rate=1.0, balance=0.1, final_balance=0.5)
    steps = [schedule(done, arguments) for done in (0, 0.05, 0.1, 0.2, 0.5, 0.625, 0.75, 1)]
    rates, balances, mixes = zip(*steps, strict=True)
    assert rates[0] == 0
    assert max(rates) == rates[1]
    assert rates[-1] == pytest.approx(0.02)
    assert balances == pytest.approx([0.1, 0.1, 0.1, 0.1, 0.1, 0.3, 0.5, 0.5])
    assert mixes == pytest.approx([0, 0.25, 0.5, 1, 1, 1, 1, 1])


def test_the_entropy_of_a_load():
    load = torch.tensor([[3.0, 3, 3, 3], [1, 0, 0, 0], [1, 1, 0, 0]])
    assert load_entropy(load) == pytest.approx([1, 0, 0.5])


@pytest.fixture(scope="module")
def corpus(sources):
    return read_corpus(sources[3], tiny_tokenizer(), length=64, sentences=150, seed=0)


def test_sentences_stand_inside_templates(corpus):
    tokenizer = tiny_tokenizer()
    rows = [tokenizer.decode(ids[:n]) for ids, n in zip(corpus["prompts"], corpus["lengths"], strict=True)]
    sentences = {sentence for text in documents(0, 100) for sentence in plain_sentences(text)}
    used = Counter()
    for row in rows:
        (sentence,) = [sentence for sentence in sentences if sentence in row]
        used[row.replace(sentence, "{text}")] += 1
    assert used.keys() <= TEMPLATES.keys()
    assert sum(used.values()) == 150
    # 45 and 20 of a hundred
    assert 40 < used[PROMPTS["prompteol"]] < 95
    assert 10 < used[PROMPTS["none"]] < 50


def test_held_out_texts_are_not_trained_on(corpus):
    tokenizer, texts = tiny_tokenizer(), documents(0, 100)
    text, held_out = (tokenizer.decode(corpus[name].flatten()) for name in ("text", "held_out"))
    assert texts[HELD_OUT - 1] in held_out
    assert texts[HELD_OUT - 1] not in text
    assert texts[0] in text


def test_every_row_is_used_once_before_any_is_used_again(corpus):
    number = len(corpus["text"])
    rows = [tuple(batch(corpus, "text", 1, step, 0).ids[0].tolist()) for step in range(2 * number)]
    first, second = rows[:number], rows[number:]
    assert set(first) == set(second) == {tuple(row.tolist()) for row in corpus["text"]}
    assert first != second


def test_a_run_is_not_mixed_with_another(run):
    with pytest.raises(KeyboardInterrupt):
        run("one", stop_at=3)
    code, _, captured = run("one", "--seed", "1")
    assert code == 1
    assert "data.safetensors: expected seed=0, as the run began; got 1. Use another --work." in captured.err


def test_a_run_that_could_not_begin_leaves_no_settings(run):
    assert run("typo", "--corpus", "nowhere.txt")[0] == 1
    assert run("typo", "--steps", "1")[0] == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--experts", "5"], "add up to the 192 neurons of an MLP; got 64 + 5 x 32 = 224"),
        (["--experts-per-token", "5"], "--experts-per-token: expected no more than there are experts, 4; got 5"),
        (["--corpus", "nowhere.txt"], "nowhere.txt"),
        (["--device", "cuda"], "--device: expected 'cpu'"),
        (["--length", "9999"], "expected 9999 tokens or more"),
    ],
)
def test_what_cannot_be_made_is_said(run, monkeypatch, flags, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, folder, captured = run("wrong", *flags)
    assert code == 1
    assert message in captured.err
    assert not folder.exists()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (MistralConfig(), "expected the model_type 'llama' or 'qwen2'"),
        (LlamaConfig(mlp_bias=True), "expected mlp_bias=False"),
        (LlamaConfig(attention_bias=True), "expected attention_bias=False"),
        (Qwen2Config(hidden_act="gelu"), "expected hidden_act='silu'"),
        (Qwen2Config(use_sliding_window=True, max_window_layers=2), "full attention in every layer"),
    ],
)
def test_what_qwen2_moe_cannot_compute_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        check_dense(config)
