"""Verify a pushed repository: load it as a stranger would, and compare with the embeddings of its build.

This process cannot import moee_hf: only the repository's own code answers.
"""

from __future__ import annotations

import argparse
import json
import os
import sys

sys.modules["moee_hf"] = None  # type: ignore[assignment]

from huggingface_hub import HfApi
from safetensors import safe_open
from transformers import AutoModel
from transformers.utils import cached_file


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", metavar="REPO_ID", help="repository on the Hub, or a built folder")
    parser.add_argument("--revision", help="branch, tag or commit (default: the newest)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, auto")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=1e-5,
        help="largest difference that passes, of vectors of length 1 (default: 1e-5, which weights in float32 keep on "
        "any machine; in bfloat16 another machine than that of the build needs more)",
    )
    arguments = parser.parse_args()
    try:
        difference = verify(arguments.model, arguments.revision, arguments.device)
    except (OSError, ValueError) as error:
        print(f"verify: {error}", file=sys.stderr)
        return 1
    print(f"max difference {difference:.1e}")
    return int(not difference <= arguments.tolerance)


def verify(model_id: str, revision: str | None, device: str) -> float:
    """Return the largest difference between the embeddings of the build and those of now, over all combinations."""
    if not os.path.isdir(model_id):
        revision = HfApi().model_info(model_id, revision=revision).sha
        print(f"{model_id} at {revision}")
    model = AutoModel.from_pretrained(model_id, revision=revision, device_map=device, trust_remote_code=True)
    differences = []
    with safe_open(cached_file(model_id, "verification.safetensors", revision=revision), framework="pt") as expected:
        texts = json.loads(expected.metadata()["texts"])
        for combination in sorted(expected.keys()):
            got = model.encode(texts, combination=combination, normalize_embeddings=True, convert_to_tensor=True)
            differences.append((got.cpu() - expected.get_tensor(combination)).abs().max().item())
            print(f"  {combination:<6} {len(texts)} texts, max difference {differences[-1]:.1e}")
    return max(differences)


if __name__ == "__main__":
    sys.exit(main())
