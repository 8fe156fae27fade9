"""Which experts tokens choose, against the backbone alone: the largest logits of each router at each token."""

import pytest
import torch
from support.common import LONG_PROMPT, MANY, TEXTS, backbone_alone

from moee_hf.routing.tokens import chosen_experts


@pytest.mark.parametrize(("texts", "layers"), [(TEXTS, None), (MANY[::9], [3, 0])], ids=["few", "many"])
@pytest.mark.parametrize("template", ['This sentence : "{text}" means in one word:"', LONG_PROMPT, "{text}"])
def test_experts_of_each_token(model, template, layers, texts):
    model.config.router_layers = layers
    head = template.partition("{text}")[0]
    for text, chosen in zip(texts, chosen_experts(model, texts, template), strict=True):
        filled = template.replace("{text}", text)
        encoded = model.tokenizer(filled, return_tensors="pt", return_offsets_mapping=True)
        with torch.no_grad():
            logits = backbone_alone()(encoded["input_ids"], output_router_logits=True).router_logits
        expected, spans = [], []
        for position, (begin, end) in enumerate(encoded["offset_mapping"][0].tolist()):
            begin, end = max(begin - len(head), 0), min(end - len(head), len(text))
            if begin < end:
                spans.append((begin, end))
                rows = [logits[layer][position].tolist() for layer in layers or range(5)]
                expected.append([sorted(range(16), key=lambda expert, r=row: -r[expert])[:4] for row in rows])
        assert chosen.spans == spans
        assert [[sorted(row) for row in token] for token in chosen.experts.tolist()] == [
            [sorted(row) for row in token] for token in expected
        ]
        for expert in range(16):
            by = [span for span, token in zip(spans, expected, strict=True) if expert in token[1]]
            assert chosen.chosen_by(1, expert) == list(dict.fromkeys(by))


def test_a_long_text_is_cut(model):
    model.config.max_length = 40
    (chosen,) = chosen_experts(model, ["word " * 200], "{text}")
    assert len(chosen.spans) == len(chosen.experts) == 40
