"""Pretraining of the embedded backbone, on a corpus of some thousand words."""

import importlib.util
import json
import random
import sys

import pytest
import torch
from safetensors.torch import load_file
from support.common import ROOT, TEXTS
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, OlmoeForCausalLM, PreTrainedTokenizerFast

from moee_hf import MoEEModel

sys.path.append(str(ROOT / "upload_scripts"))  # as for a script that is run
spec = importlib.util.spec_from_file_location("pretrain_embedded", ROOT / "upload_scripts" / "pretrain_embedded.py")
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)

WORDS = ["the", "a", "cat", "dog", "river", "stone", "king", "letter", "old", "walked", "saw", "gave", "over", "and"]
SIZES = "--vocabulary 300 --hidden-size 64 --layers 2 --experts 4 --experts-per-token 2 --expert-size 16 --rows 1"
SCHEDULE = "--steps 6 --warmup-steps 2 --decay-steps 3 --every 2 --learning-rate 0.01"


def documents(seed: int, number: int) -> list[str]:
    choose = random.Random(seed)
    sentences = [" ".join(choose.choices(WORDS, k=choose.randint(4, 12))).capitalize() for _ in range(number * 10)]
    return [". ".join(sentences[i : i + 10]) + "." for i in range(0, len(sentences), 10)]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "train.txt").write_text("\n".join(documents(0, 40)))
    (folder / "valid.txt").write_text("\n".join(documents(1, 10)))
    return ["--train", str(folder / "train.txt"), "--valid", str(folder / "valid.txt")]


@pytest.fixture
def run(files, tmp_path, monkeypatch, capsys):
    def run(name, *arguments, stop_at=None):
        """Run the script; `stop_at` kills it before that step."""
        inner = script.train_step

        def step_or_die(model, optimizer, rows, step, arguments):
            if step == stop_at:
                raise KeyboardInterrupt
            return inner(model, optimizer, rows, step, arguments)

        flags = [*files, *SIZES.split(), *SCHEDULE.split(), "--work", str(tmp_path / f"{name}-work"), *arguments]
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["pretrain_embedded.py", str(tmp_path / name), *flags])
            patch.setattr(script, "train_step", step_or_die)
            code = script.main()
        return code, tmp_path / name, capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def donor(tmp_path_factory):
    """A language model of another architecture and width, with a larger vocabulary."""
    folder, tokenizer = tmp_path_factory.mktemp("donor"), script.train_tokenizer(documents(2, 40), 320)
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=320, hidden_size=96, intermediate_size=96, num_hidden_layers=1)
    LlamaForCausalLM(config).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=script.END).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("warm", [False, True])
def test_a_run_that_was_killed_ends_with_the_same_weights(run, donor, warm):
    flags = ["--warm-start", str(donor)] if warm else []
    code, whole, _ = run("whole", *flags)
    assert code == 0
    with pytest.raises(KeyboardInterrupt):
        run("killed", *flags, stop_at=5)
    code, resumed, captured = run("killed", *flags)
    assert code == 0
    assert "goes on from step 4" in captured.err
    expected, weights = load_file(whole / "model.safetensors"), load_file(resumed / "model.safetensors")
    assert expected.keys() == weights.keys()
    assert all(torch.equal(expected[name], weights[name]) for name in expected)
    records = [json.loads((folder / "training.json").read_text()) for folder in (whole, resumed)]
    assert records[0]["curve"] == records[1]["curve"]


def test_the_result_is_a_plain_olmoe_checkpoint(run):
    code, folder, captured = run("model")
    assert code == 0
    _, report = OlmoeForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values())
    assert {tensor.dtype for tensor in load_file(folder / "model.safetensors").values()} == {torch.bfloat16}
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert all(tokenizer.decode(tokenizer(text)["input_ids"]) == text for text in TEXTS)
    model = MoEEModel.from_pretrained(folder)
    assert model.config.router_shape == [2, 4]
    assert model.encode(TEXTS).shape == (len(TEXTS), 64 + 8)
    record = json.loads(captured.out)
    assert record["tokens"] == 6 * 2 * 256
    assert record["bigram_loss"] < record["unigram_loss"]
    assert len(record["experts_used"]) == len(record["load_evenness"]) == 2
    assert all(0 < share <= 1 for share in record["experts_used"] + record["load_evenness"])


def test_training_lowers_the_loss(run):
    code, folder, _ = run("longer", "--steps", "60", "--every", "20")
    assert code == 0
    record = json.loads((folder / "training.json").read_text())
    assert [point["tokens"] for point in record["curve"]] == [20 * 512, 40 * 512, 60 * 512]
    assert record["curve"][-1]["valid_loss"] < record["curve"][0]["valid_loss"]
    assert record["valid_loss"] < record["unigram_loss"]


def test_warm_start_keeps_vocabulary_and_embeddings(run, donor, monkeypatch):
    monkeypatch.setattr(script, "RAISES", {0: 2, 4: 8})
    code, folder, _ = run("warm", "--warm-start", str(donor))
    assert code == 0
    tokenizer, of_donor = (AutoTokenizer.from_pretrained(path) for path in (folder, donor))
    assert len(tokenizer) == 300
    assert all(tokenizer.decode(tokenizer(text)["input_ids"]) == text for text in TEXTS)
    ids = of_donor.convert_tokens_to_ids(tokenizer.convert_ids_to_tokens(range(2, 300)))
    assert None not in ids
    embeddings = LlamaForCausalLM.from_pretrained(donor).get_input_embeddings().weight.detach()
    end = of_donor.convert_tokens_to_ids(script.END)
    expected = 16 * script.project(embeddings[[end, end, *ids]], 64)
    assert torch.equal(load_file(folder / "model.safetensors")["model.embed_tokens.weight"], expected.bfloat16())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--hidden-size", "65"], "expected a multiple of 64"),
        (["--experts-per-token", "5"], "5 of 4"),
        (["--expert-size", "9999"], "20,000,000 bytes"),
        (["--vocabulary", "9999"], "--vocabulary: expected no more tokens than there are"),
        (["--train", "nowhere.txt"], "nowhere.txt"),
    ],
)
def test_what_cannot_be_trained_is_said(run, flags, message):
    code, _, captured = run("wrong", *flags)
    assert code == 1
    assert message in captured.err


def test_a_run_is_not_mixed_with_another(run):
    with pytest.raises(KeyboardInterrupt):
        run("one", stop_at=3)
    code, _, captured = run("one", "--seed", "1")
    assert code == 1
    assert "expected seed=0, as the run began; got 1" in captured.err
    code, _, captured = run("one", "--steps", "1")
    assert code == 1
    assert "--steps: expected 2 or more, as the run is there; got 1" in captured.err


def test_zst_needs_its_package(tmp_path, monkeypatch):
    path = tmp_path / "corpus.txt.zst"
    path.write_bytes(b"")
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(ValueError, match="pip install zstandard"):
        script.read_documents(path)


def test_zst_is_read(tmp_path):
    zstandard = pytest.importorskip("zstandard")
    path = tmp_path / "corpus.txt.zst"
    path.write_bytes(zstandard.compress("One é.\n\nTwo.\n".encode()))
    assert script.read_documents(path) == ["One é.", "Two."]
