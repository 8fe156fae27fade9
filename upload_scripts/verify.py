"""Verify a pushed repository: load it as a stranger would, and compare with the embeddings of its build.

This process cannot import moee_hf: only the repository's own code answers.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence

sys.modules["moee_hf"] = None  # type: ignore[assignment]

import torch
from huggingface_hub import HfApi
from safetensors import safe_open
from transformers import AutoModel
from transformers.utils import cached_file


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", metavar="REPO_ID", help="repository on the Hub, or a built folder")
    parser.add_argument("--revision", help="branch, tag or commit (default: the newest)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, auto")
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
        print(f"verify: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    tolerance = {torch.float32: 1e-5}.get(dtype, 2e-2) if arguments.tolerance is None else arguments.tolerance
    same = difference <= tolerance
    print(f"{'verified' if same else 'NOT the same'}: max difference {difference:.1e}, allowed {tolerance:.1e}")
    return int(not same)


def verify(model_id: str, revision: str | None, device: str) -> tuple[float, torch.dtype]:
    """Return the largest difference between embeddings of the build and of now, and the dtype of the weights."""
    if not os.path.isdir(model_id):
        revision = HfApi().model_info(model_id, revision=revision).sha
        print(f"{model_id} at {revision}")
    with open(cached_file(model_id, "config.json", revision=revision), encoding="utf-8") as file:
        # a folder of an earlier version has no digests, and its code does not know the argument
        options = {"verify_weights": True} if json.load(file).get("digests") else {}
    options |= {"revision": revision, "device_map": device, "trust_remote_code": True}
    model = AutoModel.from_pretrained(model_id, **options)
    differences = []
    with safe_open(cached_file(model_id, "verification.safetensors", revision=revision), framework="pt") as expected:
        texts = json.loads(expected.metadata()["texts"])
        for combination in sorted(expected.keys()):
            got = model.encode(texts, combination=combination, normalize_embeddings=True, convert_to_tensor=True)
            differences.append((got.cpu() - expected.get_tensor(combination)).abs().max().item())
            print(f"  {combination:<6} {len(texts)} texts, max difference {differences[-1]:.1e}")
    return max(differences), model.dtype


if __name__ == "__main__":
    sys.exit(main())
