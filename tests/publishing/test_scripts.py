"""The three scripts, and opening what they pushed in processes without this package."""

import json
import re
import subprocess
from functools import partial

import huggingface_hub
import numpy as np
import pytest
from support.common import BACKBONE, CHECKPOINT, ROOT, TEXTS, without_digests
from support.publishing import SCRIPTS, load_script, recipe_file, run

from moee_hf import MoEEModel
from moee_hf.publishing import build, push, read_recipe, verifying


def in_process(capsys, name, *arguments):
    """Run a script's `main` here; a process costs some seconds to start, and tells no more of errors."""
    returncode = (verifying if name == "verify" else load_script(name)).main(list(map(str, arguments)))
    printed = capsys.readouterr()
    return subprocess.CompletedProcess(arguments, returncode, printed.out, printed.err)


@pytest.mark.parametrize(
    ("kind", "storage"),
    [
        ("full", "xet"),
        pytest.param("full", "lfs", marks=pytest.mark.by_hand),
        pytest.param("reference", "xet", marks=pytest.mark.slow),
    ],
    indirect=["storage"],
)
def test_build_push_verify_and_push_again(hub, recipe, storage, kind, tmp_path, capsys):
    """A reference by the commands as one types them; `verify` alone depends on being a process of its own."""
    folder = tmp_path / "built"
    if kind == "reference":
        build_script, push_script = partial(run, SCRIPTS / "build.py"), partial(run, SCRIPTS / "push.py")
    else:
        build_script, push_script = partial(in_process, capsys, "build"), partial(in_process, capsys, "push")
    done = build_script(recipe, folder, *(["--full"] if kind == "full" else []))
    assert done.returncode == 0, done.stderr
    done = push_script(folder)
    assert done.returncode == 0, done.stderr
    assert f"/author/published/commit/{hub.head('author/published')}" in done.stdout
    assert hub.requests("xet-write-token") if storage == "xet" else hub.requests("^PUT /lfs/")
    pushed = hub.files("author/published")
    assert set(pushed) == {".gitattributes"} | {path.name for path in folder.iterdir()}
    assert ("model.safetensors" in pushed) == (kind == "full")

    done = run(SCRIPTS / "verify.py", "author/published", "--tolerance", "0")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("max difference 0.0e+00") == 5
    assert "\nverified: " in done.stdout
    assert hub.head("author/published") in done.stdout

    del hub.log[:]
    head = hub.head("author/published")
    push(folder)
    assert hub.head("author/published") == head
    assert not hub.requests("^PUT|/commit/")


@pytest.mark.parametrize(
    ("kind", "place"),
    [
        ("full", "folder"),
        pytest.param("full", "hub", marks=pytest.mark.by_hand),
        pytest.param("reference", "hub", marks=pytest.mark.slow),
    ],
)
def test_every_way_in_gives_the_same_vectors(hub, recipe, kind, place, tmp_path):
    """Those of a reference without a network too, once all of it is in the cache."""
    folder = build(read_recipe(recipe), tmp_path / "built", reference=kind == "reference")
    if place == "hub":
        push(folder)
    repo = "author/published" if place == "hub" else folder
    models = {
        dtype: MoEEModel.from_pretrained(CHECKPOINT, dtype=dtype, alpha=0.5) for dtype in ("float32", "bfloat16")
    }
    for offline in ("0", "1") if kind == "reference" else ("0",):
        out = tmp_path / f"{offline}.npz"
        stranger = ROOT / "tests" / "support" / "stranger.py"
        done = run(stranger, repo, json.dumps(TEXTS), out, HF_HUB_OFFLINE=offline)
        assert done.returncode == 0, done.stderr
        with np.load(out) as vectors:
            assert len(vectors) == 17
            for name, got in vectors.items():
                # an endpoint serves the weights in their own dtype
                model = models["bfloat16" if name.startswith("EndpointHandler") else "float32"]
                expected = np.stack([model.encode(text, combination=name.split()[-1]) for text in TEXTS])
                assert np.abs(got - expected).max() < 1e-6, name


def test_errors_are_one_line(tmp_path, capsys):
    done = in_process(capsys, "push", tmp_path)
    assert done.returncode == 1
    assert re.fullmatch(r"push: .*expected a folder made by build; .*\n", done.stderr)
    done = in_process(capsys, "build", recipe_file(tmp_path, alpha=-1.0), tmp_path / "built")
    assert done.returncode == 1
    assert re.fullmatch(r"build: .*recipe\.yaml: MoEEConfig\.alpha: .*\n", done.stderr)


def test_dry_run(built, monkeypatch, capsys):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    done = in_process(capsys, "push", "--dry-run", built)
    assert done.returncode == 0, done.stderr
    for path in built.iterdir():
        assert re.search(rf"{path.stat().st_size:,}  {re.escape(path.name)}$", done.stdout, re.MULTILINE)
    assert done.stdout.rstrip().endswith(f"{sum(path.stat().st_size for path in built.iterdir()):,}  total")


def test_verify_notices(built, capsys):
    config = built / "config.json"
    config.write_bytes(without_digests(config.read_bytes()).replace(b'"alpha": 0.5', b'"alpha": 0.7'))
    done = in_process(capsys, "verify", built)
    assert done.returncode == 1
    assert re.search(r"sum +8 texts, max difference [1-9]", done.stdout)


def test_no_network_is_a_sentence(built, monkeypatch, capsys):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    done = in_process(capsys, "push", built)
    assert re.fullmatch(r"push: author/published: the Hub cannot be reached .*\n", done.stderr)
    done = in_process(capsys, "verify", "author/published")
    assert done.returncode == 1
    assert re.fullmatch(r"verify: .*\n", done.stderr)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("nothing", "there is no such folder, and the Hub has no such repository"),
        ("no/such/folder", "there is no such folder, and no repository can have this id"),
        ("", "there is no such folder, and no repository can have this id"),
        ("lab/backbone", "it has no verification.safetensors"),
        (str(ROOT / "configs"), "expected a folder made by build; it has no verification.safetensors"),
    ],
)
def test_what_cannot_be_verified_is_a_sentence(hub, name, problem, capsys):
    hub.add("lab/backbone", BACKBONE)
    done = in_process(capsys, "verify", name)
    assert done.returncode == 1
    assert re.fullmatch(rf"verify: .*{re.escape(problem)}.*\.\n", done.stderr)
