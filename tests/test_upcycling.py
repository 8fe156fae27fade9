"""The parts of upcycling, one by one: tiny dense models, and a corpus of some thousand words."""

from collections import Counter

import pytest
import torch
from support.upcycling import DENSE, SHAPE, SIZES, documents, random_parts, tiny_dense, tiny_tokenizer
from transformers import LlamaConfig, MistralConfig, Qwen2Config, Qwen2MoeForCausalLM
from upcycling_data import HELD_OUT_STRIDE, TEMPLATES, batch, plain_sentences, read_corpus
from upcycling_distillation import hidden_states, load_entropy
from upcycling_model import Sizes, check_dense, mixtures, to_checkpoint, to_mixture
from upcycling_partition import first_router, neuron_activity, partition, split_neurons
from upcycling_training import Training, new_optimizer, schedule, train_step

from moee_hf.model.prompts_moee import PROMPTS

IDS = torch.randint(SHAPE["vocab_size"], (3, 20), generator=torch.Generator().manual_seed(0))
TRAINING = Training(
    text_batch_size=2,
    sequence_length=64,
    prompt_batch_size=4,
    steps=1000,
    save_steps=2,
    learning_rate=1.0,
    balance_coefficient=0.1,
    final_balance_coefficient=0.5,
    seed=0,
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    path.write_text("\n".join(documents(0, 100)) + "\n")
    return read_corpus(str(path), tiny_tokenizer(), length=64, sentences=150, seed=0)


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
    found_shared, found = split_neurons(activity, sizes, torch.Generator().manual_seed(1))
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


def test_the_first_router_predicts_what_experts_do():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(400, 16, generator=generator)
    activity = 5 + inputs @ torch.randn(16, 3, generator=generator)
    predicted = inputs @ first_router(inputs, activity).T
    assert all(torch.corrcoef(torch.stack(pair))[0, 1] > 0.99 for pair in zip(predicted.T, activity.T, strict=True))
    assert predicted.std(dim=0) == pytest.approx([0.5] * 3, rel=0.05)


def test_load_balancing_weighs_more_towards_the_end_and_the_experts_come_in_little_by_little():
    steps = [schedule(step, TRAINING) for step in (1, 50, 100, 200, 500, 625, 750, 1000)]
    rates, coefficients, mixes = zip(*steps, strict=True)
    assert rates[0] == pytest.approx(0.02, rel=1e-3)
    assert max(rates) == rates[1]
    assert rates[-1] == pytest.approx(0.02)
    assert coefficients == pytest.approx([0.1, 0.1, 0.1, 0.1, 0.1, 0.3, 0.5, 0.5])
    assert mixes == pytest.approx([0.005, 0.25, 0.5, 1, 1, 1, 1, 1])


def test_the_first_step_trains_all_but_the_vocabulary(corpus):
    dense = tiny_dense()
    model = to_mixture(dense, [random_parts(seed, router=1) for seed in (0, 1)], SIZES.experts_per_token)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    train_step(model, dense, new_optimizer(model), corpus, 1, TRAINING)
    still = {name for name, weight in model.named_parameters() if torch.equal(weight, before[name])}
    assert still == {"model.embed_tokens.weight"}  # tied to the head


def test_the_entropy_of_a_load():
    expert_counts = torch.tensor([[3.0, 3, 3, 3], [1, 0, 0, 0], [1, 1, 0, 0]])
    assert load_entropy(expert_counts) == pytest.approx([1, 0, 0.5])


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
    assert texts[HELD_OUT_STRIDE - 1] in held_out
    assert texts[HELD_OUT_STRIDE - 1] not in text
    assert texts[0] in text


def test_every_row_is_used_once_before_any_is_used_again(corpus):
    number = len(corpus["text"])
    rows = [tuple(batch(corpus, "text", 1, step, 0).ids[0].tolist()) for step in range(1, 2 * number + 1)]
    first, second = rows[:number], rows[number:]
    assert set(first) == set(second) == {tuple(row.tolist()) for row in corpus["text"]}
    assert first != second


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
