"""Verify a pushed repository: load it as a stranger would, and compare with the embeddings of its build."""

import runpy
from pathlib import Path

if __name__ == "__main__":
    # by its path: the process that verifies cannot import the package
    program = Path(__file__).parents[1] / "moee_hf" / "publishing" / "verifying.py"
    runpy.run_path(str(program), run_name="__main__")
