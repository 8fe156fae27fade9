"""A dense model as a mixture of experts: runs of the script, on a tiny model and a corpus of some thousand words."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file
from support.common import TEXTS
from support.upcycling import documents, save_dense
from transformers import AutoModelForCausalLM, AutoTokenizer
from upcycle_embedded import main
from upcycling_data import HELD_OUT_STRIDE
from upcycling_training import train_step

from moee_hf import MoEEModel

FLAGS = (
    "--shared 64 --experts 4 --expert-size 32 --experts-per-token 2 --text-batch-size 2 --sequence-length 64 "
    "--prompt-batch-size 4 --steps 6 --save-steps 2"
)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    (folder / "corpus.txt").write_text("\n".join(documents(0, 100)) + "\n")
    return ["--dense", str(save_dense(folder / "dense")), "--corpus", str(folder / "corpus.txt")]


@pytest.fixture
def run(sources, tmp_path, monkeypatch, capsys):
    def run(name, *arguments, stop_at=None):
        """Run the script; `stop_at` kills it before that step."""

        def step_or_die(model, dense, optimizer, data, step, training):
            if step == stop_at:
                raise KeyboardInterrupt
            return train_step(model, dense, optimizer, data, step, training)

        work = str(tmp_path / f"{name}-work")
        with monkeypatch.context() as patch:
            patch.setattr("upcycling_training.train_step", step_or_die)
            code = main([str(tmp_path / name), *sources, *FLAGS.split(), "--work", work, *arguments])
        return code, tmp_path / name, capsys.readouterr()

    return run


def test_a_run_that_was_killed_ends_with_the_same_weights(run):
    code, whole, _ = run("whole")
    assert code == 0
    with pytest.raises(KeyboardInterrupt):
        run("killed", stop_at=6)
    code, resumed, captured = run("killed")
    assert code == 0
    assert "goes on after step 4" in captured.err
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
    assert record["settings"]["corpus_sha256"] == hashlib.sha256(Path(sources[3]).read_bytes()).hexdigest()
    assert record["versions"] == {"torch": torch.__version__, "transformers": transformers.__version__}
    assert [point["step"] for point in record["curve"]] == [2, 4, 6]
    assert "step 6 of 6: KL divergence" in captured.err
    # the loss of what was saved, token by token, beside that of transformers
    held_out = "\n".join(documents(0, 100)).split("\n")[HELD_OUT_STRIDE - 1 :: HELD_OUT_STRIDE]
    ids = [i for text in held_out for i in [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]]
    rows = torch.tensor(ids[: len(ids) // 64 * 64]).reshape(-1, 64)
    assert record["held_out"]["tokens"] == rows[:, 1:].numel()
    for name, source in (("loss", folder), ("dense_loss", sources[1])):
        loss = AutoModelForCausalLM.from_pretrained(source)(rows, labels=rows).loss.item()
        assert record["held_out"][name] == pytest.approx(loss, rel=1e-4)
    assert len(record["held_out"]["load_entropy"]) == 2


def test_training_brings_it_nearer_to_the_dense_model(run):
    flags = ("--text-batch-size", "4", "--prompt-batch-size", "8", "--final-balance-coefficient", "0")
    still, trained = (
        json.loads(run(steps, *flags, "--steps", steps)[2].out)["held_out"]["kl_divergence"] for steps in ("1", "40")
    )
    assert trained < 0.9 * still


def test_the_load_balancing_loss_evens_out_the_load(run):
    flags = ("--steps", "40", "--save-steps", "10", "--learning-rate", "0.003", "--text-batch-size", "8")
    uneven, even = (
        json.loads(run(coefficient, *flags, "--final-balance-coefficient", coefficient)[2].out)["curve"][-1]
        for coefficient in ("0", "5")
    )
    assert 1 - even["least_load_entropy"] < 0.3 * (1 - uneven["least_load_entropy"])


def test_a_run_is_not_mixed_with_another(run):
    with pytest.raises(KeyboardInterrupt):
        run("one", stop_at=3)
    code, _, captured = run("one", "--seed", "1")
    assert code == 1
    assert "data.safetensors: expected seed=0, as the run began; got 1. Use another --work." in captured.err


def test_an_edited_corpus_does_not_go_on_with_rows_of_the_old_one(run, sources, tmp_path):
    corpus = tmp_path / "corpus.txt"
    corpus.write_bytes(Path(sources[3]).read_bytes())
    with pytest.raises(KeyboardInterrupt):
        run("edited", "--corpus", str(corpus), stop_at=3)
    with corpus.open("a") as file:
        file.write("One text more.\n")
    code, _, captured = run("edited", "--corpus", str(corpus))
    assert code == 1
    assert "data.safetensors: expected corpus_sha256='" in captured.err


def test_a_run_that_could_not_begin_leaves_no_settings(run):
    assert run("typo", "--sequence-length", "9999")[0] == 1
    assert run("typo", "--steps", "1")[0] == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--experts", "5"], "add up to the 192 neurons of an MLP; got 64 + 5 x 32 = 224"),
        (["--experts-per-token", "5"], "--experts-per-token: expected no more than there are experts, 4; got 5"),
        (["--corpus", "nowhere.txt"], "nowhere.txt"),
        (["--device", "cuda"], "--device: expected 'cpu'"),
        (["--sequence-length", "9999"], "expected 9999 tokens or more"),
        (["--sequence-length", "1"], "--sequence-length: expected 2 tokens or more; got 1"),
        (["--learning-rate", "0"], "--learning-rate: expected a finite number > 0; got 0.0"),
        (["--learning-rate", "nan"], "--learning-rate: expected a finite number > 0; got nan"),
        (["--learning-rate", "inf"], "--learning-rate: expected a finite number > 0; got inf"),
        (["--balance-coefficient", "-1"], "--balance-coefficient: expected a finite number >= 0; got -1.0"),
        (
            ["--final-balance-coefficient", "inf"],
            "--final-balance-coefficient: expected a finite number >= 0; got inf",
        ),
        (["--seed", "-1"], "--seed: expected a number from 0 to 4294967295; got -1"),
        (["--seed", "4294967296"], "--seed: expected a number from 0 to 4294967295; got 4294967296"),
    ],
)
def test_what_cannot_be_made_is_said(run, monkeypatch, flags, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, folder, captured = run("wrong", *flags)
    assert code == 1
    assert message in captured.err
    assert not folder.exists()
