"""Verify a built folder or a pushed repository: load it as a stranger would, and compare with its build's embeddings.

As a program, this file cannot import moee_hf: only the repository's own code answers.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RevisionNotFoundError
from safetensors import safe_open
from transformers import AutoModel
from transformers.utils import cached_file

VERIFICATION_NAME = "verification.safetensors"


def main(argv: Sequence[str] | None = None) -> int:
    """Print how far embeddings of now are from those of the build; return 0 if they are the same, else 1."""
    parser = argparse.ArgumentParser(prog="verify", description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("model", metavar="REPO_ID", help="repository on the Hub, or a built folder")
    parser.add_argument("--revision", help="branch, tag or commit (default: the newest)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda:1, xpu, auto, ...")
    parser.add_argument(
        "--tolerance",
        type=float,
        help="largest difference that passes, for vectors of length 1 (default: 1e-5 for float32 weights, else 2e-2, "
        "as another machine rounds bfloat16 otherwise; on the machine of the build it is 0)",
    )
    arguments = parser.parse_args(argv)
    try:
        difference, dtype = verify(arguments.model, arguments.revision, arguments.device)
    except Exception as error:  # of the repository's own code, of transformers, of the Hub's client
        sys.stderr.write(f"verify: {' '.join(str(error).split())}\n")
        return 1
    tolerance = {torch.float32: 1e-5}.get(dtype, 2e-2) if arguments.tolerance is None else arguments.tolerance
    same = difference <= tolerance
    verdict = "verified" if same else "NOT the same"
    sys.stdout.write(f"{verdict}: max difference {difference:.1e}, allowed {tolerance:.1e}\n")
    return int(not same)


def verify(model_id: str, revision: str | None = None, device: str = "cpu") -> tuple[float, torch.dtype]:
    """Return the largest difference between embeddings of the build and of now, and the dtype of the weights.

    Raises:
        OSError: If there is no such folder or repository, or no build made it.
    """
    if not os.path.isdir(model_id):
        revision = _commit(model_id, revision)
        sys.stdout.write(f"{model_id} at {revision}\n")
    elif not os.path.isfile(os.path.join(model_id, VERIFICATION_NAME)):
        raise FileNotFoundError(f"{model_id}: expected a folder made by build; it has no {VERIFICATION_NAME}.")
    with open(_file(model_id, "config.json", revision), encoding="utf-8") as file:
        # a folder of an earlier version has no digests, and its code does not know the argument
        options: dict[str, Any] = {"verify_weights": True} if json.load(file).get("digests") else {}
    options |= {"revision": revision, "device_map": device, "trust_remote_code": True}
    model = AutoModel.from_pretrained(model_id, **options)
    differences = []
    with safe_open(_file(model_id, VERIFICATION_NAME, revision), framework="pt") as expected:
        texts = json.loads(expected.metadata()["texts"])
        for combination in sorted(expected.keys()):
            got = model.encode(texts, combination=combination, normalize_embeddings=True, convert_to_tensor=True)
            differences.append((got.cpu() - expected.get_tensor(combination)).abs().max().item())
            sys.stdout.write(f"  {combination:<6} {len(texts)} texts, max difference {differences[-1]:.1e}\n")
    return max(differences), model.dtype


def _commit(repo_id: str, revision: str | None) -> str:
    """The commit of a repository whose build can be verified."""
    expected = f"{repo_id!r}: expected a folder made by build, or a repository that one was pushed to"
    try:
        head = HfApi().model_info(repo_id, revision=revision)
    except HFValidationError as error:
        raise FileNotFoundError(f"{expected}; there is no such folder, and no repository can have this id.") from error
    except RevisionNotFoundError as error:
        raise FileNotFoundError(
            f"{repo_id!r}: expected a revision that it has on the Hub; got {revision!r}."
        ) from error
    except Exception as error:  # of the Hub's client, and of whatever HTTP library it uses
        missing = isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 404)
        problem = "has no such repository that you may see" if missing else f"gives no answer ({error})"
        raise OSError(f"{expected}; there is no such folder, and the Hub {problem}.") from error
    if VERIFICATION_NAME not in {file.rfilename for file in head.siblings or []} or head.sha is None:
        raise FileNotFoundError(f"{expected}; it has no {VERIFICATION_NAME}.")
    return head.sha


def _file(model_id: str, name: str, revision: str | None) -> str:
    path: str = cached_file(model_id, name, revision=revision)
    return path


if __name__ == "__main__":
    sys.modules["moee_hf"] = None  # type: ignore[assignment]
    sys.exit(main())
