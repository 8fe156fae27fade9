"""What tests of publishing share: recipes, the upload scripts, and processes of their own."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import yaml

from support.common import ROOT

SCRIPTS = ROOT / "upload_scripts"


def recipe_file(folder: Path, **changes) -> Path:
    """Write a recipe, with a backbone that tests put on their Hub; what is changed to None is left out."""
    recipe = {
        "repo_id": "published",
        "base_model_name_or_path": "lab/backbone",
        "base_model_revision": "main",
        "license": "apache-2.0",
        "language": "en",
        "alpha": 0.5,
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in (recipe | changes).items() if value is not None}))
    return path


def run(*command: object, **environment: str) -> subprocess.CompletedProcess:
    """Run a Python script in a process of its own, away from this checkout."""
    environment = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "PYTHONWARNINGS": "ignore"} | environment
    return subprocess.run(
        [sys.executable, "-P", *map(str, command)],
        cwd=os.path.expanduser("~"),
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def load_script(name: str) -> ModuleType:
    """Import an upload script into this process, where the package stays importable whatever the script does."""
    package = sys.modules["moee_hf"]
    spec = importlib.util.spec_from_file_location(f"upload_scripts_{name}", SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    finally:
        sys.modules["moee_hf"] = package
    return module
