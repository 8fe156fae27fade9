"""The command: data on standard output, messages on standard error, 0 / 1 / 2."""

import argparse
import io
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from support.common import CHECKPOINT, TEXTS

from moee_hf import MoEEConfig, MoEEModel, __version__
from moee_hf.cli import build_parser, main

SMALL = ["--model", str(CHECKPOINT)]


def test_similarity_prints_the_matrix(capsys):
    texts = ["A man is playing a guitar.", "two\nlines", "A long text, " * 10]
    assert main(["similarity", *texts, "--prompt", "none", "--combination", "hs", *SMALL]) == 0
    printed = capsys.readouterr()
    model = MoEEModel.from_pretrained(CHECKPOINT)
    embeddings = model.encode(texts, prompt_name="none", combination="hs")
    rows = printed.out.splitlines()
    assert rows[0].split() == ["1", "2", "3"]
    for row, label, values in zip(rows[1:], texts, model.similarity(embeddings, embeddings).tolist(), strict=True):
        assert [float(value) for value in row.split()[-3:]] == pytest.approx(values, abs=5.1e-4)
        assert label[:3] in row
        assert len(row) == len(rows[1])
    assert printed.err == ""


def test_embed_from_standard_input(tmp_path, monkeypatch, capsys):
    lines = [text for text in TEXTS if "\n" not in text]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\n".join(lines).encode())))
    assert main(["embed", "-", "--output", "vectors.npy", "--dtype", "float32", *SMALL]) == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == f"{len(lines)} embeddings of width 144: vectors.npy\n"
    expected = MoEEModel.from_pretrained(CHECKPOINT, dtype="float32").encode(lines)
    assert np.load(tmp_path / "vectors.npy") == pytest.approx(expected, abs=1e-6)


def test_embed_flags_reach_the_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.csv").write_text("id,body\n1,one\n2,two\n")
    flags = ["--column", "body", "--prompt", "Q: {text}", "--alpha", "0.5", "--normalize", "--dtype", "float32"]
    flags += ["--device", "cpu", "--batch-size", "1", *SMALL]
    assert main(["embed", "in.csv", "--output", "out.npy", *flags]) == 0
    model = MoEEModel.from_pretrained(CHECKPOINT, dtype="float32")
    expected = model.encode(["one", "two"], prompt="Q: {text}", alpha=0.5, normalize_embeddings=True)
    assert np.load("out.npy") == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["similarity", "a", "", "--prompt", "none", *SMALL], r"texts\[1\]: expected a text with tokens"),
        (
            ["similarity", "a", "--prompt", "eol", *SMALL],
            "--prompt: expected one of 'prompteol', 'none', .*; got 'eol'",
        ),
        (["similarity", "a", "--prompt", "none+eol", *SMALL], "--prompt: expected one of .*; got 'eol'"),
        (
            ["embed", "-", "--output", "x.npy", "--precision", "binary", *SMALL],
            "--precision: expected standardized embeddings for 'binary'",
        ),
        (["similarity", "a", "--model", "./nowhere"], "'./nowhere': expected a folder with a config.json, or the id"),
        (["embed", "missing.txt", "--output", "x.npy"], "missing.txt"),
        (["embed", "missing.txt", "--output", "x.bin"], "x.bin: expected a file ending in"),
        (["info", "./nowhere"], "'./nowhere': expected a folder with a config.json"),
        (["info", "."], "'.': expected a folder with a config.json; there is none in it"),
        (["similarity", "a", "--prompt", "{text} {text}", *SMALL], r"--prompt: expected .*'{text} {text}'"),
        (["similarity", "a", "--device", "tpu"], r"--device: expected one that is here \(auto, cpu.*got 'tpu'"),
        (
            ["embed", "missing.txt", "--output", "folder.npy"],
            "folder.npy: expected a file to write; there is a folder",
        ),
    ],
)
def test_errors_are_one_message_and_exit_1(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.npy").mkdir()
    assert main(arguments) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.search(f"^moee: .*{message}", printed.err, re.DOTALL)


def test_wrong_usage_exits_2(capsys):
    embed = ["embed", "x.txt", "--output", "x.npy"]
    for arguments in (
        *(["embd"], ["embed", "x.txt"], ["similarity", "a", "--combination", "both"]),
        *([*embed, "--batch-size", "0"], [*embed, "--alpha", "-1"], [*embed, "--precision", "float16"]),
        ["calibrate", "x.txt", "--output", "y", "--fit-alpha"],
    ):
        with pytest.raises(SystemExit) as error:
            main(arguments)
        assert error.value.code == 2


@pytest.mark.parametrize(
    ("command", "message", "printed"),
    [
        (["similarity", "a"], "alpha: expected; got.", "--alpha: expected; got."),
        (["similarity", "a"], "texts[1]: expected", "texts[1]: expected"),
        (["similarity", "a"], "texts: expected", "texts: expected"),
        (["similarity", "a"], "batch_size: expected", "batch_size: expected"),
        (["similarity", "a"], "file.txt, line 1: alpha: expected", "file.txt, line 1: alpha: expected"),
        (["similarity", "a"], "run: expected", "run: expected"),
        (["info"], "model: expected", "model: expected"),
        (["embed", "-", "--output", "a.npy"], "batch_size: expected: x", "--batch-size: expected: x"),
        (["embed", "-", "--output", "a.npy"], "model: expected", "--model: expected"),
    ],
)
def test_errors_of_the_library_name_the_flag(command, message, printed, monkeypatch, capsys, tmp_path):
    """They name arguments; those that are flags of the command that runs are named as flags."""

    def fail(*args, **kwargs):
        raise ValueError(message)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(MoEEModel, "from_pretrained", fail)
    monkeypatch.setattr(MoEEConfig, "from_pretrained", fail)
    assert main(command) == 1
    assert capsys.readouterr().err == f"moee: {printed}\n"


def test_every_command_explains_itself():
    commands = next(
        action.choices for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction)
    )
    assert {"similarity", "embed", "calibrate", "evaluate", "robustness", "complementarity", "info"} < commands.keys()
    for name, command in commands.items():
        assert ("In Python: " in command.description) == (name != "examples")


def test_empty_input_is_an_error(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").touch()
    assert main(["embed", "empty.txt", "--output", "x.npy", *SMALL]) == 1
    assert "empty.txt: expected texts; got none" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("command", ["backbones", "--version"])
def test_a_closed_pipe_is_no_error(command):
    """Closed from the beginning: much is written at once, and is dropped as it fails; little waits for the end."""
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run([sys.executable, "-m", "moee_hf.cli", command], stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (result.returncode, result.stderr) == (0, b"")


def test_wide_characters_keep_the_columns(capsys):
    assert main(["similarity", "漢字かな", "🎸 guitar", "plain", *SMALL]) == 0
    rows = capsys.readouterr().out.splitlines()[1:]
    starts = [len(row) + sum(character in "漢字かな🎸" for character in row) for row in rows]
    assert len(set(starts)) == 1


def test_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"moee_hf {__version__}\n"


def test_backbones(capsys):
    assert main(["backbones"]) == 0
    printed = capsys.readouterr().out.split()
    assert {"deepseek", "olmoe", "qwen2_moe", "mixtral", "gpt_oss", "jetmoe", "llama4"} <= set(printed)
    assert "llama" not in printed


def test_file_of_the_name_of_a_flag_is_no_flag(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "file").touch()
    assert main(["calibrate", "corpus.txt", "--output", "model"]) == 1
    assert capsys.readouterr().err.startswith("moee: model: expected a new or empty folder")


@pytest.mark.parametrize("encoding", ["cp1252", "cp437", "ascii"])
def test_a_terminal_that_cannot_show_a_text_shows_the_rest(encoding, monkeypatch):
    texts = ["Привет мир", "a long text, " * 5, "Hello"]
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding=encoding))
    assert main(["similarity", *texts, *SMALL]) == 0
    rows = shown.getvalue().decode(encoding).splitlines()
    assert len(rows) == 4
    assert len(set(map(len, rows))) == 1  # columns stay
    assert "??????" in rows[1]


CHOICES = dict(
    combination="sum",
    alpha=0.25,
    pooling="weightedmean",
    hidden_layer=-2,
    router_layers=[0, -1, 2],
    router_layer_weights=[1.0, 0.5, 2.0],
    router_activation="logits",
    max_length=24,
)
CHOICE_FLAGS = {
    "spaces": "--router-layers 0 -1 2 --router-layer-weights 1 0.5 2",
    "commas": "--router-layers 0,-1,2 --router-layer-weights 1,0.5,2",
}


@pytest.mark.parametrize("written", CHOICE_FLAGS)
def test_choices_are_flags(written, tmp_path, monkeypatch, capsys):
    """Each of them changes the embedding."""
    monkeypatch.chdir(tmp_path)
    texts = [text for text in TEXTS if "\n" not in text]
    (tmp_path / "in.txt").write_text("\n".join(texts), encoding="utf-8")
    flags = [*CHOICE_FLAGS[written].split(), "--combination", "sum", "--alpha", "0.25", "--pooling", "weightedmean"]
    flags += ["--hidden-layer", "-2", "--router-activation", "logits", "--max-length", "24", "--dtype", "float32"]
    assert main(["embed", "in.txt", "--output", "out.npy", *flags, *SMALL]) == 0
    expected = MoEEModel.from_pretrained(CHECKPOINT, dtype="float32", **CHOICES).encode(texts)
    assert np.load("out.npy") == pytest.approx(expected, abs=1e-6)
    capsys.readouterr()
    assert main(["similarity", *texts[:2], *flags, *SMALL]) == 0
    cosine = expected[0] @ expected[1] / np.linalg.norm(expected[0]) / np.linalg.norm(expected[1])
    assert float(capsys.readouterr().out.split()[-2]) == pytest.approx(cosine, abs=6e-4)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--alpha 2 --combination hs", "--alpha: expected --combination sum beside it"),
        ("--attention-layers 0", "--attention-layers: expected --hidden-source attention or values beside it"),
        ("--hidden-layer 1 --hidden-source values", "--hidden-layer: expected --hidden-source state beside it"),
        (
            "--router-layers 0 --combination hs",
            "--router-layers: expected --combination rw or concat or sum beside it",
        ),
        ("--hidden-layer 99", "--hidden-layer: expected"),
        ("--router-layers 0 0", "--router-layers: expected each layer once"),
        ("--router-layer-weights 1 2", "--router-layer-weights: expected one weight for each of 5"),
        ("--dimensions 4", "--dimensions: expected a model that was fitted to a corpus"),
        ("--standardize", "--standardize: expected"),
        ("--revision main", "--revision: expected a branch, tag or commit of a model on the Hub"),
        ("--device cpu:x", "--device: expected one that is here"),
        ("--prompt=", "--prompt: expected one of"),
    ],
)
def test_choices_without_effect_or_sense_are_refused(flags, message, capsys):
    assert main(["similarity", "a", *flags.split(), *SMALL]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith(f"moee: {message}")
    assert printed.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "printed"),
    [
        (MemoryError(), "memory: expected enough for the model and a batch; there is not. Lower --batch-size"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "memory: expected enough for the model"),
        (TypeError("texts[0]: expected a string; got 1."), "texts[0]: expected a string; got 1."),
        (
            FileNotFoundError(2, "No such file or directory", "a.bin"),
            "a.bin: expected a file or folder; there is none.",
        ),
        (OSError(28, "No space left on device"), "expected room for the file; the disk is full. Free some"),
        (ValueError("prompt_name: expected\nanother"), "--prompt: expected another"),
    ],
)
def test_errors_are_one_sentence(error, printed, monkeypatch, capsys):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(MoEEModel, "from_pretrained", fail)
    assert main(["similarity", "a"]) == 1
    assert capsys.readouterr().err.startswith(f"moee: {printed}")


def test_an_interruption_is_130(monkeypatch, capsys):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(MoEEModel, "from_pretrained", interrupt)
    assert main(["similarity", "a"]) == 130
    assert capsys.readouterr().err == "moee: interrupted\n"


def test_without_a_command_there_is_help(capsys):
    assert main([]) == 0
    assert "similarity" in capsys.readouterr().out


def test_info_names_what_a_call_need_not_say(tmp_path, capsys):
    config = MoEEConfig.from_pretrained(CHECKPOINT)
    config.choose(combination="sum", alpha=0.25, pooling="mean", max_length=77, default_prompt_name=["tone", "none"])
    config.save_pretrained(tmp_path)
    assert main(["info", str(tmp_path)]) == 0
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert (rows["default"], rows["pooling"], rows["length"]) == ("sum, alpha 0.25", "mean", "77 tokens")
    assert rows["prompt"].startswith("tone, ")
    assert rows["prompt"].endswith(' + none, "{text}"')


def test_layers_of_flags_count_alike_whatever_the_models_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = MoEEConfig.from_pretrained(CHECKPOINT)
    config.choose(router_layer_weights=[1.0, 0.0, 2.0, 0.0, 1.0])
    MoEEModel.from_pretrained(CHECKPOINT, config=config, dtype="float32").save_pretrained("weighted")
    (tmp_path / "in.txt").write_text("one\ntwo\n")
    assert main(["embed", "in.txt", "--output", "out.npy", "--router-layers", "0", "-1", "--model", "weighted"]) == 0
    expected = MoEEModel.from_pretrained(CHECKPOINT, dtype="float32", router_layers=[0, -1]).encode(["one", "two"])
    assert np.load("out.npy") == pytest.approx(expected, abs=1e-6)
