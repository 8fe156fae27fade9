"""`moee explain`: a view for people, files, JSON for programs, and what it refuses before a model is loaded."""

import json
import re
import shlex
import sys

import numpy as np
import pytest
from support import browser
from support.common import CHECKPOINT, ROOT, TEXTS

from moee_hf import MoEEModel
from moee_hf.cli import main
from moee_hf.model import hub_moee
from moee_hf.routing.explain import explain
from moee_hf.routing.explain_files import write_explanation

PAIR = ["A man is playing a guitar.", "Someone performs\tmusic [bold]$5\x1b[31m."]
SMALL = ["--model", str(CHECKPOINT), "--dtype", "float32"]
README = ROOT / "moee_hf" / "routing" / "README.md"
IMAGES = README.parent / "images"


def printed(capsys, *arguments):
    assert main(["explain", *arguments, *SMALL]) == 0
    return capsys.readouterr().out


def numbers(line):
    return [float(number) for number in re.findall(r"-?\d\.\d+", line.replace("−", "-"))]


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")


@pytest.mark.parametrize("activation", ["softmax", "clr"])
def test_the_view_of_two_texts(capsys, model, activation):
    choices = ["--combination", "sum", "--alpha", "1", "--router-activation", activation]
    out = printed(capsys, *PAIR, "--tokens", "--prompt", "none", *choices)
    model.config.choose(router_activation=activation)
    explanation = explain(model, *PAIR, prompt_name="none", combination="sum", alpha=1, tokens=True)
    lines = out.splitlines()
    assert numbers(lines[0]) == pytest.approx([explanation.similarity[0, 1]], abs=1e-3)
    assert lines[4:6] == [f"1  {PAIR[0]}", "2  Someone performs music [bold]$5 [31m."]
    parts = [numbers(line) for line in lines if "weight" in line]
    expected = zip(
        (explanation.of_hidden, explanation.of_routing), explanation.weights, explanation.cosines, strict=True
    )
    assert parts == [pytest.approx([value[0, 1] for value in row], abs=1e-3) for row in expected]
    layers = [numbers(line) for line in lines if re.match(r"layer \d +\S", line)]
    assert layers == [pytest.approx([value], abs=1e-3) for value in explanation.of_layers[0, 1]]
    experts = [line for line in lines if re.match(r"layer \d, expert \d", line)]
    alike, differ = explanation.strongest(0, 1)
    assert [tuple(map(int, re.findall(r"\d+", line)[:2])) for line in experts] == [
        (part.layer, part.expert) for part in alike + differ
    ]
    assert ("both less than usual" in out) == (activation == "clr")  # softmax weights are never below 0
    for line, part in zip(experts, alike, strict=False):
        is_avoided = (explanation.routing[:, part.layer, part.expert] < 0).all()
        assert ("both less than usual" in line) == is_avoided
        if is_avoided:
            continue
        chosen = explanation.tokens[0].chosen_by(part.layer, part.expert)
        is_whole = len(chosen) == len(explanation.tokens[0].spans)
        assert all(is_whole or PAIR[0][begin:end].strip() in line for begin, end in chosen)
        assert ("1: all words" in line) == is_whole
        assert ("1: no word" in line) == (not chosen)


def test_the_view_of_several_texts(capsys, model):
    out = printed(capsys, *TEXTS)
    explanation = explain(model, *TEXTS)
    rows = [numbers(line)[-len(TEXTS) :] for line in out.splitlines()[1 : 1 + len(TEXTS)]]
    assert rows == [pytest.approx(row, abs=1e-3) for row in explanation.similarity.tolist()]
    first, second = explanation.nearest()
    assert f"How alike texts {first + 1} and {second + 1} are: " in out
    assert "expert" in out
    assert "expert" not in printed(capsys, *TEXTS[:2], "--combination", "hs")


def test_no_number_is_cut_in_a_narrow_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for texts in (PAIR, ["A text."] * 2, [str(number) for number in range(20)]):
        out = printed(capsys, *texts, "--tokens")
        assert "…" not in out
        assert "expert" in out


def test_json_on_standard_output_and_in_a_file(capsys, tmp_path, model):
    expected = explain(model, *PAIR, tokens=True).to_dict()
    read = json.loads(printed(capsys, *PAIR, "--tokens", "--output", "-"))
    assert read.keys() == expected.keys()
    for name in ("similarity", "hidden_weight", "routing_cosine", "experts"):
        np.testing.assert_allclose(read[name], expected[name], rtol=0, atol=1e-6)
    assert [read[name] for name in ("texts", "layers", "tokens")] == [PAIR, [0, 1, 2, 3, 4], expected["tokens"]]
    path = tmp_path / "pair.json"
    assert printed(capsys, *PAIR, "--tokens", "--output", str(path)) == ""
    assert json.loads(path.read_text(encoding="utf-8"))["texts"] == PAIR


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["one"], "texts: expected two or more, to compare; got 1"),
        (["one", " "], r"texts\[1\]: expected some words; got ' '"),
        (["one", "two", "--output", "pair.gif"], r"--output: expected a file that ends in \.png, .*; got 'pair\.gif'"),
        (["one", "two", "--output", "pair.html", "--theme", "dark"], r"--theme: expected a figure .*; got \.html"),
        (["one", "two", "x", "--tokens", "--output", "x.png"], "--tokens: expected two texts for a figure with words"),
        (["one", "two", "--theme", "dark"], "--theme: expected --output with a figure beside it; got none"),
        (["one", "two", "--output", "no/pair.png"], r"no/pair\.png: expected a folder to write to"),
        (["one", "two", "--output", "pair.png"], r'Figures need matplotlib: pip install "moee_hf\[figures\]"'),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_refused_before_a_model_is_loaded(arguments, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(MoEEModel, "from_pretrained", None)
    if "Figures" in message:
        monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["explain", *arguments]) == 1
    assert re.match(f"moee: {message}", capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("flags", [["--prompt", "prompteol+none"], ["--combination", "hs"]], ids=str)
def test_tokens_need_one_routing(flags, capsys):
    assert main(["explain", *PAIR, "--tokens", *flags, *SMALL]) == 1
    assert capsys.readouterr().err.startswith("moee: --tokens: expected ")


@pytest.mark.slow
def test_commands_of_the_readme_run_as_written(tmp_path, monkeypatch):
    """With a small model in place of the embedded one; four of them draw what the README of the package shows."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / IMAGES.relative_to(ROOT)).mkdir(parents=True)
    monkeypatch.setitem(hub_moee._ALIASES, "embedded", str(CHECKPOINT))
    blocks = re.findall(r"```bash\n(.*?)\n```", README.read_text(encoding="utf-8"), re.DOTALL)
    commands = [line for block in blocks for line in block.replace("\\\n", "").splitlines() if "moee explain" in line]
    assert len(commands) == 7
    for command in commands:
        assert main(shlex.split(command)[1:]) == 0
    written = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*") if path.is_file()}
    images = {str(path.relative_to(ROOT)) for path in IMAGES.glob("*.png")}
    assert len(images) == 4
    assert written == {"pair.png", "pair.html", *images}
    assert all((ROOT / path).stat().st_size < 150_000 for path in images)


@pytest.mark.slow
def test_a_page_in_a_browser(tmp_path, model):
    """Texts do nothing, an expert is reached by pointer and by keyboard, and its words light up."""
    hostile = ['</script><script>document.title="owned"</script><img src=x onerror="document.title=1"> 🎸 guitar', "x"]
    explanation = explain(model, *hostile, *TEXTS[:1], tokens=True)
    write_explanation(explanation, tmp_path / "page.html")
    url = (tmp_path / "page.html").as_uri()
    with browser.chromium() as chromium, browser.watched(chromium, url) as page:
        page.get_by_label("texts 1 and 2: ").first.click()
        assert page.locator(".text").all_inner_texts()[0].partition("\n")[2] == hostile[0]
        page.locator("canvas").first.focus()
        for _ in range(20):
            page.keyboard.press("ArrowUp")
            page.keyboard.press("ArrowLeft")
        for expert in range(16):
            value = explanation.routing[0, 0, expert]
            details = page.locator("#details").inner_text()
            assert details.startswith(f"MoE layer 0, expert {expert}: ")
            assert numbers(details)[0] == pytest.approx(value, rel=0.1, abs=1e-3)
            lit = set("".join(page.locator(".text").first.locator(".lit").all_inner_texts()))
            chosen = [hostile[0][begin:end] for begin, end in explanation.tokens[0].chosen_by(0, expert)]
            assert lit == set("".join(chosen))
            page.keyboard.press("ArrowRight")
        page.locator("canvas").nth(2).hover(position={"x": 2, "y": 58})
        assert re.match(r"MoE layer \d, expert 0: ", page.locator("#details").inner_text())
        assert page.title().startswith("How alike texts")
