"""`moee calibrate`, and what `embed` and `info` make of its models."""

import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from scipy.stats import spearmanr
from support.common import CHECKPOINT, TEXTS

from moee_hf import MoEEConfig, MoEEModel
from moee_hf.cli import main
from moee_hf.cli.routing import agreement_chart

SMALL = ["--model", str(CHECKPOINT), "--dtype", "float32"]
CORPUS = [text for text in TEXTS if "\n" not in text] + [f"The number {number} is a number." for number in range(9)]
NAMES = ["prompteol", "none"]


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "corpus.txt").write_text("\n".join(CORPUS), encoding="utf-8")


def calibrate(*flags):
    assert main(["calibrate", "corpus.txt", "--output", "out", *SMALL, *flags]) == 0
    return MoEEModel.from_pretrained("out")


def table(printed, marked=False):
    """The embeddings that were compared, with their numbers; or that which is marked as the model's."""
    rows = re.findall(r"^ {5}(hs|rw|sum, alpha \S+) +(\S+)( \*)?$", printed, re.MULTILINE)
    return {name: float(value) for name, value, star in rows if star or not marked}


@pytest.mark.usefixtures("corpus")
def test_calibrate_is_that_of_the_model(capsys):
    got = calibrate("--prompt", "+".join(NAMES), "--dimensions", "4")
    printed = capsys.readouterr()
    model = MoEEModel.from_pretrained(CHECKPOINT, dtype="float32")
    model.calibrate(CORPUS, prompt_name=NAMES, dimensions=4)
    expected = model.encode(TEXTS, prompt_name=NAMES)
    assert got.encode(TEXTS, prompt_name=NAMES) == pytest.approx(expected, abs=1e-5)
    assert printed.out == ""
    lines = printed.err.splitlines()
    for layer, value in enumerate(model.config.router_agreement):
        (line,) = (line for line in lines if re.match(rf" *{layer} .*{value:.3f}", line))
        assert line.endswith(" RW") == (layer in model.config.router_indices)
        assert len(line) <= 60
    assert f"alpha: {model.config.alpha:g}. Without labels nothing says how good RW are" in printed.err
    ((chosen, value),) = table(printed.err, marked=True).items()
    assert chosen == f"sum, alpha {model.config.alpha:g}"
    assert value >= 0.995
    assert table(printed.err)["hs"] == 1.0
    assert {"rw", "sum, alpha 1", "sum, alpha 16"} <= table(printed.err).keys()
    assert got.config.default_prompt_name == NAMES
    assert lines[-1] == f"calibrated on {len(CORPUS)} texts: out"


@pytest.mark.usefixtures("corpus")
def test_goes_on_where_a_save_was_interrupted():
    Path("out/.moee-saving-1").mkdir(parents=True)
    Path("out/model-00001-of-00002.safetensors").write_bytes(b"half")
    calibrate("--keep-routing")
    assert not [path for path in Path("out").iterdir() if path.name.startswith((".moee", "model-"))]
    assert main(["calibrate", "corpus.txt", "--output", "out", *SMALL]) != 0


@pytest.mark.usefixtures("corpus")
def test_keep_routing(capsys):
    got = calibrate("--keep-routing")
    assert (got.config.router_activation, got.config.alpha, got.config.calibrated) == ("softmax", 1.0, True)
    printed = capsys.readouterr().err
    assert "RW come from all 5 MoE layers." in printed
    assert "alpha: 1, as it was." in printed


@pytest.mark.usefixtures("corpus")
def test_alpha_of_a_development_set(capsys):
    """It ranks the pairs as well as the best of a grid of our own; principal components are fitted to it."""
    pairs = list(itertools.pairwise(CORPUS))
    scores = np.random.default_rng(0).uniform(size=len(pairs)).tolist()
    lines = [json.dumps({"sentence1": a, "sentence2": b, "score": s}) for (a, b), s in zip(pairs, scores, strict=True)]
    with open("dev.jsonl", "w", encoding="utf-8") as file:
        file.write("\n".join(lines))
    got = calibrate("--fit-alpha", "dev.jsonl", "--prompt", "none", "--dimensions", "3")
    assert got.config.compression["alpha"] == got.config.alpha
    assert got.encode(TEXTS, prompt_name="none").shape == (len(TEXTS), 3)
    whole = got.with_config(dimensions=None)

    def cosines(combination):
        vectors = whole.encode(CORPUS, prompt_name="none", combination=combination, normalize_embeddings=True)
        return (vectors[:-1] * vectors[1:]).sum(axis=1)

    hidden, routing = cosines("hs"), cosines("rw")
    quality = [spearmanr(hidden + alpha * routing, scores).statistic for alpha in np.geomspace(1 / 64, 16, 11)]
    assert spearmanr(hidden + got.config.alpha * routing, scores).statistic >= max(quality) - 1e-6
    printed = capsys.readouterr().err
    assert f"alpha: {got.config.alpha:g}, the best on dev.jsonl." in printed
    sums = {"hs": hidden, "rw": routing, **{f"sum, alpha {alpha:g}": hidden + alpha * routing for alpha in (0.25, 1)}}
    for name, similarity in sums.items():
        assert table(printed)[name] == pytest.approx(spearmanr(similarity, scores).statistic, abs=2e-3)
    assert list(table(printed, marked=True)) == [f"sum, alpha {got.config.alpha:g}"]
    better = max(table(printed)[part] for part in ("hs", "rw")) > max(table(printed, marked=True).values())
    assert ("alone ranks them better" in printed) == better


@pytest.mark.usefixtures("corpus")
@pytest.mark.parametrize(
    ("prompt", "name", "templates"),
    [
        ("none", "none", ["{text}"]),
        ("Q: {text}", "custom", ["Q: {text}"]),
        ("{text}", "none", ["{text}"]),
        ("tone+none", ["tone", "none"], None),
    ],
)
def test_the_prompt_and_other_choices_are_saved(prompt, name, templates, capsys):
    flags = ["--combination", "hs", "--pooling", "mean", "--hidden-layer", "-2", "--max-length", "64"]
    got = calibrate("--prompt", prompt, *flags)
    model = MoEEModel.from_pretrained(
        CHECKPOINT, dtype="float32", pooling="mean", hidden_layer=-2, combination="hs", max_length=64
    )
    by_prompt = {"prompt": prompt} if "{text}" in prompt else {"prompt_name": prompt.split("+")}
    model.calibrate(CORPUS, **by_prompt)
    assert got.encode(TEXTS) == pytest.approx(model.encode(TEXTS, **by_prompt), abs=1e-5)
    assert (got.config.default_prompt_name, got.config.combination, got.config.max_length) == (name, "hs", 64)
    assert templates in (None, got.config.resolve_prompts())
    assert got.config.alpha == 1.0  # of no effect, and not stored
    assert list(table(printed := capsys.readouterr().err, marked=True)) == ["hs"]
    assert "combination: hs, as asked for; it has no alpha." in printed


@pytest.mark.usefixtures("corpus")
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--alpha", "2"], "--alpha: expected --keep-routing beside it"),
        (["--router-activation", "logits"], "--router-activation: expected --keep-routing beside it"),
        (["--alpha", "2", "--keep-routing", "--combination", "rw"], "--alpha: expected --combination sum beside it"),
        (["--fit-alpha", "dev.jsonl", "--combination", "hs"], "--fit-alpha: expected --combination sum beside it"),
        (["--reference"], "--reference: expected a model whose weights the Hub has"),
        (["--prompt", "nosuch"], "--prompt: expected one of"),
        (["--router-layers", "99"], "--router-layers: expected numbers from -5 to 4"),
    ],
)
def test_what_calibrate_refuses(flags, message, capsys):
    assert main(["calibrate", "corpus.txt", "--output", "out", *SMALL, *flags]) == 1
    assert capsys.readouterr().err.startswith(f"moee: {message}")


@pytest.mark.usefixtures("corpus")
def test_smaller_embeddings(capsys):
    model = calibrate("--dimensions", "9")
    for precision, width in {"int8": "9", "ubinary": "2 bytes"}.items():
        flags = ["--precision", precision, "--model", "out"]
        assert main(["embed", "corpus.txt", "--output", "vectors.safetensors", *flags]) == 0
        with safe_open("vectors.safetensors", "np") as file:
            got, metadata = file.get_tensor("embeddings"), file.metadata()
        expected = model.encode(CORPUS, precision=precision)
        assert got.dtype == expected.dtype
        # rounding may fall to the other side
        apart = np.unpackbits(got) != np.unpackbits(expected) if precision == "ubinary" else got != expected
        assert np.mean(apart) < 0.01
        assert (metadata["precision"], metadata["dimensions"], metadata["normalized"]) == (precision, "9", "True")
        assert f"{len(CORPUS)} embeddings of width {width}: vectors.safetensors" in capsys.readouterr().err


@pytest.mark.usefixtures("corpus")
def test_info_of_a_calibrated_model(capsys):
    model = calibrate("--dimensions", "9")
    capsys.readouterr()
    assert main(["info", "out"]) == 0
    rows = dict(re.split(r"  +| (?=sum)", line, maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert rows["embedding"].endswith("; projected on 9")
    assert rows["a vector"] == "sum 9: 36 bytes in float32, 9 bytes in int8, 2 bytes in binary"
    assert ", ".join(map(str, model.config.router_indices)) in rows["calibrated"]


def test_bars_are_as_long_as_the_agreement():
    config = MoEEConfig(router_layers=[0])
    config.router_shape, config.router_agreement = [4, 8], [0.5, 0.25, 0.0, -0.5]
    bars = [line[5:45].rstrip() for line in agreement_chart(config)]
    assert bars == ["█" * 40, "█" * 20, "", ""]
    config.router_agreement = [-0.1]
    assert [line.split() for line in agreement_chart(config)] == [["0", "-0.100", "RW"]]


@pytest.mark.usefixtures("corpus")
def test_a_killed_run_can_be_run_again(capsys):
    left = Path("out", ".moee-saving-killed")
    left.mkdir(parents=True)
    (left / "statistics.safetensors").write_bytes(b"half")
    Path("out", "tokenizer.json").write_text("moved already")
    assert calibrate().config.calibrated
    assert not left.exists()
    assert main(["calibrate", "corpus.txt", "--output", "out", *SMALL]) == 1
    assert "out: expected a new or empty folder" in capsys.readouterr().err
