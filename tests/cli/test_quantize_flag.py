"""`--quantize`: what a command loads with it, what it says of it, and that nothing is mistaken for another format."""

import argparse
import math
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from mteb.cache import ResultCache
from support.common import CHECKPOINT
from support.tiny_backbones import tiny_config

from moee_hf import EMBEDDED, MoEEModel
from moee_hf.cli import build_parser, main
from moee_hf.evaluation import MoEEEncoder
from moee_hf.evaluation.features import choices_of
from moee_hf.evaluation.identity import identity_of
from moee_hf.evaluation.store import folder_in_store
from moee_hf.info import model_info
from moee_hf.model.choices_moee import QUANTIZATIONS

EMBED = ["embed", "a.txt", "--output", "x.parquet"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The working directory, with texts."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("one\ntwo cats\nthree dogs and rain\n")
    return tmp_path


@pytest.fixture(scope="module")
def quantized():
    """The small model in each format."""
    pytest.importorskip("bitsandbytes")
    pytest.importorskip("torchao")
    return {name: MoEEModel.from_pretrained(CHECKPOINT, quantization_config=name) for name in QUANTIZATIONS}


def num_bytes(tensor):
    """Bytes of a tensor, of torchao's those of its parts."""
    if hasattr(tensor, "__tensor_flatten__"):
        return sum(num_bytes(getattr(tensor, name)) for name in tensor.__tensor_flatten__()[0])
    return math.prod(tensor.shape) * tensor.dtype.itemsize


def test_every_command_that_loads_a_model_has_the_flag():
    (commands,) = (action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction))
    flags = {name: parser._option_string_actions for name, parser in commands.choices.items()}
    loading = {name for name, of_command in flags.items() if "--dtype" in of_command}
    assert {"similarity", "embed", "calibrate", "evaluate"} <= loading
    for name in loading:
        assert tuple(flags[name]["--quantize"].choices) == QUANTIZATIONS
    assert {name for name, of_command in flags.items() if "--quantize" in of_command} == loading


@pytest.mark.parametrize("name", QUANTIZATIONS)
def test_embed_has_the_vectors_of_the_format_and_its_name(name, quantized, capsys):
    assert main([*EMBED, "--model", str(CHECKPOINT), "--quantize", name]) == 0
    assert capsys.readouterr().err.splitlines()[-1].startswith("3 embeddings")
    table = pq.read_table("x.parquet")
    got, texts = np.stack(table["embedding"].to_numpy()), table["text"].to_pylist()
    assert np.array_equal(got, quantized[name].encode(texts))
    whole = MoEEModel.from_pretrained(CHECKPOINT).encode(texts)
    assert np.abs(got - whole).max() > 1e-3
    assert table.schema.metadata[b"quantization"] == name.encode()


def test_a_file_of_whole_weights_names_no_format():
    assert main([*EMBED, "--model", str(CHECKPOINT)]) == 0
    assert pq.read_schema("x.parquet").metadata[b"quantization"] == b""


@pytest.mark.parametrize("name", QUANTIZATIONS)
def test_weights_take_what_info_says(name, quantized):
    weights = sum(num_bytes(weight) for weight in quantized[name].model.parameters())
    assert weights == model_info(MoEEModel.from_pretrained(CHECKPOINT).config).memory(torch.bfloat16, name)


def test_no_two_formats_share_a_result(quantized, tmp_path):
    """Neither vectors that are kept nor scores; the same format has the same place each time."""
    places = []
    for name in (None, *QUANTIZATIONS):
        again = MoEEModel.from_pretrained(CHECKPOINT, quantization_config=name)
        of_model = set()
        for model in [again] if name is None else [quantized[name], again]:
            choices = choices_of(model, ["{text}"], random=False)
            result = ResultCache(tmp_path).get_task_result_path("STSBenchmark", MoEEEncoder(model).mteb_model_meta)
            of_model.add((folder_in_store(tmp_path, identity_of(model), "{text}", choices, random=False), result))
        (place,) = of_model
        places.append(place)
    assert [len(set(paths)) for paths in zip(*places, strict=True)] == [1 + len(QUANTIZATIONS)] * 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", EMBEDDED], "--quantize: expected None beside model.gguf, whose weights are dequantized"),
        (["--model", str(CHECKPOINT), "--devices", "cpu,cpu"], "--quantize: expected no --devices beside it"),
        (["--model", "stored"], "--quantize: expected None for a checkpoint that is quantized already, by 'mxfp4'"),
    ],
)
def test_what_excludes_it_is_one_sentence(flags, message, folder, capsys):
    config = tiny_config("gpt_oss")
    config.quantization_config = {"quant_method": "mxfp4"}
    config.save_pretrained(folder / "stored")
    assert main([*EMBED, *flags, "--quantize", "nf4"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"moee: {message}")
    assert not (folder / "x.parquet").exists()


def test_without_the_packages_it_says_what_to_install(monkeypatch, capsys):
    for package in ("bitsandbytes", "torchao", "torchao.quantization"):
        monkeypatch.setitem(sys.modules, package, None)
    for name in QUANTIZATIONS:
        assert main([*EMBED, "--model", str(CHECKPOINT), "--quantize", name]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert 'pip install "moee_hf[quantized]"' in line
