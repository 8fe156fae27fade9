"""Evaluation: mteb's metrics on what the judge computes from raw vectors, one reading of a text, and resuming."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time

import mteb
import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from mteb.abstasks import AbsTaskClustering
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.models import EncoderProtocol
from support import evaluation_data, metrics, recompute
from support.common import ROOT, TEXTS

from moee_hf import MoEEModel
from moee_hf.cli import main
from moee_hf.evaluation import Corpus, Features, MoEEEncoder, encoders, evaluate, get_tasks, local_tasks, table
from moee_hf.evaluation.features import random_weights

CORPUS = [f"{text} Or so they say, {number}." for number in range(4) for text in TEXTS]
COMBINATIONS = ("hs", "rw", "concat", "sum")
PAIR = '{"sentence1": "x", "sentence2": "y", %s}\n'
TASKS = {
    "STSBenchmark": "sts/stsb.test",
    "twins": "pair_classification/twins.test",
    "EmotionClassification": "classification/emotion.test",
    "topics": "clustering/topics",
    "questions": "reranking/questions",
    "SummEvalSummarization.v2": "summarization/summeval.public",
}


def raw_vectors(model, texts, prompt, statistics=None):
    """HS and RW of each text, from `forward` on it alone; standardized in numpy."""
    with torch.inference_mode():
        outputs = [model(**model.tokenize([text], prompt_name=prompt)) for text in texts]
    hidden = np.stack([output.pooled_hidden_state[0].double().numpy() for output in outputs])
    routing = np.stack([output.router_weights[0].double().numpy() for output in outputs])
    if statistics is not None:
        (h_mean, h_std), (r_mean, r_std) = statistics
        hidden, routing = (hidden - h_mean) / h_std, (routing - r_mean) / r_std
    return hidden, routing.reshape(len(texts), -1)


def judge(task, rows, vector):
    name = TASKS[task]
    if name.startswith("classification"):
        return metrics.classification(rows[name], vector, rows["classification/emotion.train"], samples_per_label=16)
    return getattr(metrics, name.split("/")[0])(rows[name], vector)


@pytest.mark.parametrize("prompt", ["none", "prompteol"])
@pytest.mark.parametrize("calibrated", [False, True], ids=["raw", "calibrated"])
def test_every_score_is_the_judges(model, data, tmp_path, prompt, calibrated):
    """Six types of tasks, four embeddings, from vectors of texts alone: 1e-4 as in the table's last digit."""
    grid = encoders(model, [prompt], combinations=COMBINATIONS, corpus=Corpus(CORPUS))
    scores = {
        (score.task, score.choices["combination"]): score.value
        for score in evaluate(grid, local_tasks(data), tmp_path)
        if ("statistics" in score.choices) == calibrated
    }
    assert {task for task, _ in scores} == set(TASKS)
    rows = evaluation_data.rows()
    texts = list(dict.fromkeys(text for lines in rows.values() for text in recompute.texts_of(lines)))
    statistics = None
    if calibrated:
        hidden, routing = raw_vectors(model, CORPUS, prompt)
        shape = (-1, *model.config.router_shape)
        routing = routing.reshape(shape)
        statistics = (hidden.mean(0), hidden.std(0)), (routing.mean(0), routing.std(0))
    hidden, routing = raw_vectors(model, texts, prompt, statistics)
    for combination in COMBINATIONS:
        vector = dict(zip(texts, metrics.embedding(hidden, routing, combination), strict=True))
        for task in TASKS:
            assert scores[task, combination] == pytest.approx(100 * judge(task, rows, vector), abs=1e-2), combination


def test_mteb_takes_the_encoder(model, data):
    encoder = MoEEEncoder(model, combination="rw")
    assert isinstance(encoder, EncoderProtocol)
    (task,) = local_tasks(data, ["stsb"])
    result = mteb.evaluate(encoder, task, cache=None, show_progress_bar=False).task_results[0]
    rows = evaluation_data.rows()["sts/stsb.test"]
    first, second = (
        model.encode([row[side] for row in rows], combination="rw") for side in ("sentence1", "sentence2")
    )
    expected = metrics.spearmanr(metrics.cosines(first, second), [row["score"] for row in rows]).statistic
    assert result.get_score() == pytest.approx(expected, abs=1e-4)
    assert result.task_name == "STSBenchmark"


def test_vectors_are_those_of_encode(model):
    model.calibrate(CORPUS, prompt_name="none")
    texts = [*TEXTS, TEXTS[0]]
    for options in ({}, {"combination": "concat"}, {"alpha": 0.3}, {"standardize": False}):
        vectors = MoEEEncoder(model, prompt="none", **options).embed(texts)
        np.testing.assert_allclose(vectors, model.encode(texts, prompt_name="none", **options), atol=1e-4)


def test_each_text_is_read_once_per_prompt(model, data, tmp_path, monkeypatch):
    """Every variant of six tasks: the model sees as many rows as there are distinct texts, and the corpus once."""
    read = {}
    encode = MoEEModel.encode

    def counted(self, texts, prompt=None, **options):
        read.setdefault(prompt, []).extend(texts)
        return encode(self, texts, prompt=prompt, **options)

    monkeypatch.setattr(MoEEModel, "encode", counted)
    grid = encoders(
        model, ["none", "prompteol"], combinations=COMBINATIONS, alphas=(0.5, 1.0, 2.0), corpus=Corpus(CORPUS)
    )
    scores = list(evaluate(grid, local_tasks(data), tmp_path))
    assert len(scores) == len(TASKS) * 2 * 2 * (3 + 3)  # prompts, raw and calibrated, three alphas of sum
    rows = evaluation_data.rows()
    del rows["sts/stsb.dev"]
    asked = {text for lines in rows.values() for text in recompute.texts_of(lines)} | set(CORPUS)
    assert read.keys() == {model.config.prompt_template(name) for name in ("none", "prompteol")}
    for texts in read.values():
        assert len(texts) == len(set(texts))
        assert set(texts) <= asked


def test_kept_vectors_are_read_in_place_of_texts(model, data, tmp_path, monkeypatch, caplog):
    """And they are the raw ones, from which a script that knows nothing of us computes the whole table."""

    def run(output):
        grid = encoders(
            model, ["none"], combinations=COMBINATIONS, corpus=Corpus(CORPUS), control=True, store=tmp_path / "vectors"
        )
        return table(list(evaluate(grid, local_tasks(data), tmp_path / output)))

    first = run("first")
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "vectors").rglob("*.safetensors")}
    assert kept
    names = {
        "topics": "clustering/topics",
        "questions": "reranking/questions",
        "twins": "pair_classification/twins.test",
    }
    assert {task: recompute.file_of(data, task) for task in names} == names
    cells = [dict(zip(first.header, row, strict=True)) for row in first.rows]
    cells = [{**row, "prompt": "none"} for row in cells]
    found = list(recompute.recompute(cells, data, tmp_path / "vectors", CORPUS))
    assert len(found) == len(TASKS) * 2 * 8
    for cell, theirs, ours in found:
        assert theirs == pytest.approx(ours, abs=1e-2), cell
    monkeypatch.setattr(MoEEModel, "encode", lambda *a, **k: pytest.fail("a text was read"))
    assert run("second").csv() == first.csv()
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "vectors").rglob("*.safetensors")} == kept
    monkeypatch.undo()
    damaged = sorted(kept)[0]
    damaged.write_bytes(damaged.read_bytes()[:100])
    assert run("third").csv() == first.csv()
    assert f"{damaged}: expected kept vectors" in caplog.text
    model.config.pooling = "mean"  # other vectors, in another folder
    assert run("fourth").csv() != first.csv()


def test_model_is_left_as_it_was(model, data, tmp_path):
    before, config = model.encode(TEXTS), model.config.to_dict()
    grid = encoders(model, poolings=("mean",), hidden_layers=(-2,), corpus=Corpus(CORPUS), control=True)
    assert len(list(evaluate(grid, local_tasks(data, ["stsb"]), tmp_path))) == 4
    assert model.config.to_dict() == config
    np.testing.assert_array_equal(model.encode(TEXTS), before)


def test_control_has_the_architecture_and_not_the_weights(model):
    trained, random = model.state_dict(), random_weights(model).state_dict()
    assert {name: weight.shape for name, weight in random.items()} == {n: w.shape for n, w in trained.items()}
    name = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.allclose(trained[name], random[name])
    torch.testing.assert_close(random, random_weights(model).state_dict(), atol=0, rtol=0)  # the same one each time
    (trained,), (random,) = encoders(model, control=True)
    assert random.experiment == trained.experiment | {"weights": "random"}
    assert random.features.identity == trained.features.identity
    model.calibrate(CORPUS)
    with pytest.raises(ValueError, match="--control: expected texts to calibrate on beside it"):
        next(encoders(model, control=True))


def test_meta_is_honest(monkeypatch):
    paper = {"pooling": "lasttoken", "hidden_layer": -1, "standardize": False, "default_prompt_name": "prompteol"}
    model = MoEEModel.from_pretrained("embedded", combination="sum", **paper)
    encoder = MoEEEncoder(model, prompt="none", combination="sum", alpha=0.5)
    meta = encoder.mteb_model_meta
    assert meta.name == "moee_hf/embedded"
    assert len(meta.revision) == 40
    assert meta.n_parameters == sum(weight.numel() for weight in model.model.parameters())
    assert meta.n_active_parameters < meta.n_parameters
    assert meta.embed_dim == model.config.embedding_size_for("sum")
    assert meta.training_datasets == set()
    assert meta.experiment_kwargs["alpha"] == 0.5
    variants = [
        {},
        {"combination": "rw"},
        {"alpha": 2.0},
        {"standardize": True},
        {"corpus": Corpus(["a"])},
        {"corpus": Corpus(["b"])},
        {"prompt": "none"},
        {"prompt": "a {text}:"},
        {"prompt": "a {text}?"},
        {"pooling": "mean"},
        {"hidden_layer": -2},
        {"router_layers": [0]},
        {"router_activation": "logits"},
    ]
    names = {MoEEEncoder(model, **options).mteb_model_meta.experiment_name for options in variants}
    assert len(names) == len(variants)  # each has a folder for its results
    assert MoEEEncoder(model, alpha=2).experiment == MoEEEncoder(model, alpha=2.0).experiment
    template = model.config.prompt_template("prompteol")
    assert MoEEEncoder(model, prompt=template).experiment == MoEEEncoder(model, prompt="prompteol").experiment
    before = MoEEEncoder(model).experiment
    monkeypatch.setattr(model.config.backbone_config, "num_experts_per_tok", 1)
    assert MoEEEncoder(model).experiment != before
    model.calibrate(CORPUS)
    first = MoEEEncoder(model).experiment["statistics"]
    model.calibrate(CORPUS[1:])
    assert MoEEEncoder(model).experiment["statistics"] != first


def test_revision_is_that_of_the_weights(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "copy")
    one, same = (Features(MoEEModel.from_pretrained(folder)).identity for folder in (saved, tmp_path / "copy"))
    assert one[1] == same[1]
    config = json.loads((tmp_path / "copy" / "config.json").read_text())
    (tmp_path / "copy" / "config.json").write_text(json.dumps(config | {"alpha": 3.0}))
    assert Features(MoEEModel.from_pretrained(tmp_path / "copy")).identity[1] != one[1]


def test_model_changed_in_memory_has_another_revision(saved):
    model = MoEEModel.from_pretrained(saved)
    before = Features(model).identity
    with torch.no_grad():
        model.get_input_embeddings().weight[0, 0] += 1
    changed = Features(model).identity
    assert changed[0] == f"memory/{saved.name}"
    assert changed[1] != before[1]
    with torch.no_grad():
        model.get_input_embeddings().weight[0, 0] += 1
    assert Features(model).identity[1] != changed[1]
    replaced = MoEEModel.from_pretrained(saved)
    replaced.set_input_embeddings(torch.nn.Embedding.from_pretrained(torch.randn(8192, 256)))
    assert Features(replaced).identity[1] != before[1]
    assert Features(MoEEModel(model.config)).identity[1] != Features(MoEEModel(model.config)).identity[1]


def test_hub_id_and_commit_are_name_and_revision(hub, loaded):
    loaded.push_to_hub("author/model")
    model = MoEEModel.from_pretrained("author/model")
    meta = MoEEEncoder(model).mteb_model_meta
    assert meta.name == "author/model"
    assert meta.revision == hub.head("author/model")


def results(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.json") if path.name != "model_meta.json"}


def test_second_run_computes_nothing(model, data, tmp_path, monkeypatch):
    def run():
        return table(list(evaluate(encoders(model, combinations=("hs", "sum")), local_tasks(data), tmp_path))).csv()

    first, files = run(), results(tmp_path)
    assert len(files) == 2 * len(TASKS)
    monkeypatch.setattr(MoEEModel, "encode", lambda *a, **k: pytest.fail("a text was read"))
    assert run() == first
    assert results(tmp_path) == files


def test_data_of_mteb_are_loaded_once_and_only_if_needed(model, data, tmp_path, monkeypatch):
    """A task of mteb's own, as the Hub would fill it."""
    (local,) = local_tasks(data, ["stsb"])
    (task,) = get_tasks(["STS12"])
    loads = []

    def load_data(**kwargs):
        loads.append(task.metadata.name)
        task.dataset, task.data_loaded = local.dataset, True

    monkeypatch.setattr(task, "load_data", load_data)

    def run(task):
        return list(evaluate(encoders(model, ["none", "prompteol"], combinations=COMBINATIONS), [task], tmp_path))

    scores = run(task)
    assert len(scores) == 8
    assert loads == ["STS12"]
    (again,) = get_tasks(["STS12"])
    monkeypatch.setattr(again, "load_data", lambda **kwargs: pytest.fail("data were loaded"))
    assert run(again) == scores


@pytest.mark.parametrize("damage", ["", "{", '{"task_name": "STSBenchmark"}', "null", "\x00\xff"])
def test_damaged_result_is_reported_and_computed_again_alone(model, data, tmp_path, caplog, damage):
    def run():
        return {s.task: s.value for s in evaluate(encoders(model, combinations=("hs",)), local_tasks(data), tmp_path)}

    first, files = run(), results(tmp_path)
    (path,) = (path for path in files if path.name == "STSBenchmark.json")
    path.write_text(damage, encoding="latin-1")
    caplog.set_level(logging.WARNING, "moee_hf")
    assert run() == first
    assert f"{path}: expected a result of mteb" in caplog.text
    assert json.loads(path.read_text())["task_name"] == "STSBenchmark"
    again = results(tmp_path)
    assert {p: t for p, t in again.items() if p != path} == {p: t for p, t in files.items() if p != path}


def test_changed_data_are_evaluated_again(model, data, tmp_path, caplog):
    folder = shutil.copytree(data, tmp_path / "data")
    output = tmp_path / "out"

    def run(split=None):
        (score,) = evaluate(encoders(model), local_tasks(folder, ["stsb"], split), output)
        return score.value

    test, dev = run(), run("dev")
    assert test != dev
    assert (run(), run("dev")) == (test, dev)  # splits have one file of results, side by side
    path = next((folder / "sts").glob("stsb.test*"))
    lines = evaluation_data.rows()["sts/stsb.test"][:40]
    path.with_name("stsb.test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    caplog.set_level(logging.WARNING, "moee_hf")
    assert run() != test
    assert "the data of STSBenchmark were changed since" in caplog.text


def test_killed_evaluation_resumes(data, tmp_path):
    """A process killed after its first results; the second leaves those as they are and adds the rest."""
    command = [sys.executable, "-m", "moee_hf.cli", "evaluate", "--data", str(data), "--output", str(tmp_path)]
    command += ["--combination", *COMBINATIONS]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": str(ROOT)}) as process:
        while process.poll() is None and len(results(tmp_path)) < 3:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    killed = results(tmp_path)
    assert 3 <= len(killed) < len(COMBINATIONS) * len(TASKS)
    # the file that it was writing may be cut short
    whole = {path: written for path, written in killed.items() if path.read_text().endswith("}")}
    assert main(command[3:]) == 0
    finished = results(tmp_path)
    assert len(finished) == len(COMBINATIONS) * len(TASKS)
    assert {path: finished[path] for path in whole} == whole


def test_command_prints_and_saves_the_table(data, tmp_path, capsys):
    (tmp_path / "corpus.txt").write_text("\n".join(line.replace("\n", " ") for line in CORPUS))
    command = ["evaluate", "--data", str(data), "--tasks", "stsb", "twins", "--prompt", "none", "prompteol"]
    command += ["--combination", "hs", "sum", "--alpha", "0.5", "2", "--calibrate", str(tmp_path / "corpus.txt")]
    command += ["--control", "random", "--output", str(tmp_path / "out")]
    assert main(command) == 0
    out, err = capsys.readouterr()
    header, *lines = out.splitlines()
    assert header.split("  ")[0] == "task"
    for column in ("hs", "sum 0.5", "sum 2", "random hs", "random sum 0.5", "random sum 2"):
        assert column in header
    assert len(lines) == 2 * 2 * 2  # tasks, prompts, raw and calibrated
    assert all(len(line.split()) == 3 + 6 for line in lines)
    markdown = (tmp_path / "out" / "scores.md").read_text().splitlines()
    assert markdown[0].startswith("| task | prompt | statistics | hs | sum 0.5 | sum 2 | random hs |")
    assert [line.split() for line in lines] == [line.strip("|").replace("|", " ").split() for line in markdown[2:]]
    rows = (tmp_path / "out" / "scores.csv").read_text().splitlines()
    assert [line.split() for line in lines] == [row.split(",") for row in rows[1:]]
    assert "STSBenchmark" in err


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "expected files such as"),
        ({"sts/a.test.jsonl": ""}, "sts/a.test.jsonl: expected rows; got none"),
        ({"sts/a.test.jsonl": '{"sentence1": "x"}\n'}, "line 1: expected an object with the field 'sentence2'"),
        ({"sts/a.test.jsonl": "[]\n"}, "line 1: expected an object with the field 'sentence1'"),
        (
            {"sts/a.test.jsonl": '{"sentence1": "x", "sentence2": "y", "score": "5"}\n'},
            "line 1: expected 'score' of type int or float; got '5'",
        ),
        ({"sts/a.test.jsonl": "{\n"}, "line 1: expected a JSON object"),
        ({"sts/a.test.jsonl": PAIR % '"score": NaN'}, "line 1: expected 'score' of type int or float; got nan"),
        ({"sts/a.test.jsonl": PAIR % '"score": 2' * 3}, "expected rows that differ in 'score'; got 2 alone"),
        ({"pair_classification/a.jsonl": PAIR % '"label": 1'}, "expected rows that differ in 'label'; got 1 alone"),
        ({"pair_classification/a.jsonl": PAIR % '"label": 2'}, "expected 'label' to be 0 or 1; got 2"),
        (
            {"clustering/a.jsonl": '{"text": "x", "label": "y"}\n'},
            "expected rows that differ in 'label'; got 'y' alone",
        ),
        ({"clustering/a.jsonl": '{"text": "\\ud800", "label": "y"}\n'}, "line 1: expected 'text' of type str"),
        ({"sts/.jsonl": PAIR}, "expected NAME.SPLIT.jsonl, one of each"),
        ({"sts/a.jsonl": PAIR, "sts/a.test.jsonl": PAIR}, "expected NAME.SPLIT.jsonl, one of each"),
        ({"sts/a.test.jsonl.gz": "no gzip"}, "a.test.jsonl.gz: expected a file packed by gzip; got a damaged one"),
        ({"sts/a.dev.jsonl": "", "sts/a.extra.jsonl": ""}, "expected a with the split 'test'; got 'dev', 'extra'"),
        ({"classification/a.test.jsonl": '{"text": "x", "label": "y"}\n'}, "expected a file of the split 'train'"),
        (
            {"reranking/a.jsonl": '{"query": "x", "positive": ["y"], "negative": [1]}\n'},
            "line 1: expected 'negative' of type list of str",
        ),
        (
            {"reranking/a.jsonl": '{"query": "x", "positive": [], "negative": ["z"]}\n'},
            "line 1: expected texts in 'positive'; got none",
        ),
        (
            {
                "summarization/a.jsonl": '{"text": "x", "machine_summaries": ["y"], "human_summaries": ["z"], '
                '"relevance": [1, 2]}\n'
            },
            "line 1: expected a score in 'relevance' for each of 1 summaries; got 2",
        ),
    ],
)
def test_data_that_are_none_say_where(tmp_path, files, message):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        local_tasks(tmp_path)


def test_names_that_are_none(tmp_path, data):
    with pytest.raises(ValueError, match=r"expected tasks with a file in .*sts/stsb.*; got 'STS12'"):
        local_tasks(data, ["STS12"])
    with pytest.raises(ValueError, match="--tasks: expected the name of a task of mteb"):
        get_tasks(["STS1234"])
    with pytest.raises(ValueError, match="--tasks: expected names of mteb's tasks"):
        get_tasks(None)
    with pytest.raises(NotADirectoryError, match="expected a folder with sts, "):
        local_tasks(tmp_path / "nothing")
    with pytest.raises(ValueError, match=r"--split: expected one that STS12 evaluates \(test\); got 'dev'"):
        get_tasks(["STS12"], split="dev")
    assert [task.metadata.name for task in get_tasks(["SummEval", "stsb"], str(data))] == ["SummEval", "STSBenchmark"]


def test_empty_text_of_a_benchmark_is_a_space(model):
    vectors = MoEEEncoder(model).embed(["", " "])
    np.testing.assert_array_equal(vectors[0], vectors[1])


def test_rows_that_change_their_file_change_the_revision(tmp_path):
    lines = [json.dumps({"text": f"text {n}", "label": str(n % 2)}) + "\n" for n in range(20)]
    revisions = set()
    for cut in (8, 12):
        folder = tmp_path / str(cut) / "classification"
        folder.mkdir(parents=True)
        (folder / "a.train.jsonl").write_text("".join(lines[:cut]))
        (folder / "a.test.jsonl").write_text("".join(lines[cut:]))
        (task,) = local_tasks(folder.parent)
        revisions.add(task.metadata.revision)
    assert len(revisions) == 2


def test_file_of_the_name_of_a_multilingual_task(model, tmp_path):
    (tmp_path / "sts").mkdir()
    rows = evaluation_data.rows()["sts/stsb.test"]
    (tmp_path / "sts" / "sts17.test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (score,) = evaluate(encoders(model), local_tasks(tmp_path), tmp_path / "out")
    assert score.task == "STS17"


class Sampled(AbsTaskClustering):
    """A task that draws its texts anew, as the newer clustering tasks of mteb do."""

    max_document_to_embed = 60
    max_fraction_of_documents_to_embed = None
    n_clusters = 5
    metadata = TaskMetadata(
        name="Sampled",
        description="",
        type="Clustering",
        dataset={"path": "x", "revision": "1"},
        eval_langs=["eng-Latn"],
        eval_splits=["test"],
        main_score="v_measure",
    )


def test_every_encoder_gets_the_same_sample(model, tmp_path):
    def scores(combinations, output):
        task = Sampled()
        texts, labels = zip(*((text, topic) for topic, text in evaluation_data.TEXTS), strict=True)
        task.dataset = DatasetDict(test=Dataset.from_dict({"sentences": texts, "labels": labels}))
        task.data_loaded = True
        found = evaluate(encoders(model, combinations=combinations), [task], output)
        return {score.choices["combination"]: score.value for score in found}

    assert scores(("hs", "rw"), tmp_path / "a") == scores(("rw", "hs"), tmp_path / "b")


def test_what_is_no_option_says_so(model):
    with pytest.raises(ValueError, match=r"Features: expected choices of MoEEConfig .*; got 'poolin'"):
        MoEEEncoder(model, poolin="mean")
    with pytest.raises(TypeError, match="MoEEEncoder: expected prompt with a model; got features"):
        MoEEEncoder(Features(model), prompt="none")
    with pytest.raises(ValueError, match="hidden_layer"):
        MoEEEncoder(model, hidden_layer=99)
    with pytest.raises(ValueError, match="prompt: expected a template"):
        MoEEEncoder(model, prompt="{text} {text}")
    raw, calibrated = next(encoders(model, corpus=Corpus(CORPUS)))
    assert (raw.standardize, calibrated.standardize) == (False, True)
    assert raw.variant(corpus=Corpus(CORPUS), standardize=None).standardize


def test_what_is_asked_for_twice_is_done_once(model, data, tmp_path):
    prompts = ("none", "none", "{text}")
    grid = encoders(model, prompts, ("lasttoken", None), combinations=("sum", "sum"), alphas=(0.1234567, 0.12345678))
    tasks = local_tasks(data, ["stsb", "stsb", "STSBenchmark"])
    scores = list(evaluate(grid, tasks, tmp_path))
    assert len(tasks) == 1
    assert len(scores) == 2
    assert table(scores).header[-2:] == ["sum 0.1234567", "sum 0.12345678"]


def test_names_that_may_be_several(tmp_path):
    rows = evaluation_data.rows()
    for name, source in (("sts/foo", "sts/stsb.test"), ("clustering/foo", "clustering/topics")):
        path = tmp_path / f"{name}.jsonl"
        path.parent.mkdir()
        path.write_text("".join(json.dumps(row) + "\n" for row in rows[source]))
    with pytest.raises(ValueError, match="expected one file for foo; got two"):
        local_tasks(tmp_path)
    with pytest.raises(ValueError, match="--tasks: expected one of clustering/foo, sts/foo; got 'foo'"):
        local_tasks(tmp_path, ["foo"])
    assert [type(task).__mro__[1].__name__ for task in local_tasks(tmp_path, ["sts/foo"])] == ["AbsTaskSTS"]
    (tmp_path / "sts" / "foo.jsonl").rename(tmp_path / "sts" / "sts-b.v1.dev.jsonl")
    assert [task.metadata.name for task in local_tasks(tmp_path)] == ["foo", "sts-b.v1"]


def test_two_classes_of_three_are_evaluated(model, tmp_path):
    (tmp_path / "classification").mkdir()
    rows = evaluation_data.rows()["classification/emotion.train"]
    parts = {"train": rows, "test": [row for row in rows[:40] if row["label"] != "money"]}
    for part, lines in parts.items():
        text = "".join(json.dumps(row) + "\n" for row in lines)
        (tmp_path / "classification" / f"a.{part}.jsonl").write_text(text)
    (score,) = evaluate(encoders(model), local_tasks(tmp_path), tmp_path / "out")
    assert 0 < score.value <= 100


def test_corpus_of_one_text_is_none(model):
    with pytest.raises(ValueError, match="texts: expected two or more to calibrate on; got 1"):
        MoEEEncoder(model, corpus=Corpus(["One text."])).embed(TEXTS)
