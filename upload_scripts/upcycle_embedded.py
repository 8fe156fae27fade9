"""Turn a dense language model into a mixture of experts with trained routers, as was done for the embedded backbone.

The neurons of every MLP are dealt out to a shared expert and many small ones; then the model learns to do, with a few
experts a token, what the dense model does with all its neurons. It reads rows of a text, and sentences inside prompts;
no label says which texts are alike. A run that was stopped goes on from its last checkpoint when it is started again.
The result is a plain Qwen2-MoE checkpoint in float32, with the record of the run; quantize.py makes it small.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from upcycling_data import batch, read_corpus
from upcycling_distillation import evaluate
from upcycling_model import Parts, Sizes, load_dense, mixtures, to_checkpoint, to_mixture
from upcycling_partition import partition
from upcycling_training import log, run

from moee_hf.cli.flags import positive_int
from moee_hf.files.folders import check_new_folder

# flags of numbers, with their defaults
NUMBERS = {
    "shared": (512, "neurons", "of every MLP that all tokens visit"),
    "experts": (32, "experts", "of every MLP"),
    "expert-size": (32, "neurons", "of an expert"),
    "experts-per-token": (8, "experts", "that a token visits"),
    "text": (32, "rows", "of consecutive tokens a step"),
    "length": (512, "tokens", "of such a row"),
    "prompts": (256, "sentences", "inside prompts a step"),
    "steps": (1500, "steps", "in all"),
    "every": (200, "steps", "from one checkpoint, and line of progress, to the next"),
}
RATES = {
    "learning-rate": (5e-4, "of matrices, at its highest; that of routers and norms is twice as high"),
    "balance": (0.05, "weight of the loss that spreads tokens over experts"),
    "final-balance": (0.5, "the same towards the end"),
}
FREE = ("folder", "work", "device")  # of the arguments: what a run may change on its way
PARTITION_ROWS = 64  # of text, which tell what the neurons do
EVALUATION_ROWS = 128  # of held-out text


def upcycle(arguments: argparse.Namespace) -> dict[str, Any]:
    """Make the mixture, train it, and save it with the record of the run, which is returned.

    Raises:
        ValueError: If a model, a file or a flag is not as expected.
        OSError: If a file cannot be read or written.
    """
    folder, work, device = check_new_folder(arguments.folder), Path(arguments.work), torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device: expected 'cpu', as torch finds no GPU here; got 'cuda'.")
    sizes = Sizes(arguments.shared, arguments.experts, arguments.expert_size, arguments.experts_per_token)
    dense, tokenizer = load_dense(arguments.dense, arguments.gguf_file, sizes)
    settings = {name: value for name, value in vars(arguments).items() if name not in FREE}

    def corpus() -> dict[str, torch.Tensor]:
        sentences = arguments.steps * arguments.prompts
        return read_corpus(arguments.corpus, tokenizer, arguments.length, sentences, arguments.seed)

    def parts_of_dense() -> dict[str, torch.Tensor]:
        rows = batch(data, "text", PARTITION_ROWS, 0, arguments.seed).ids
        return partition(dense.to(device), rows, sizes, arguments.seed)

    data = _kept(work / "data.safetensors", corpus, settings, device)
    parts = _kept(work / "partition.safetensors", parts_of_dense, settings, device)
    layers = [Parts(*of_layer) for of_layer in zip(*(parts[name] for name in Parts._fields), strict=True)]
    model = to_mixture(dense.to(device), layers, sizes.experts_per_token)
    curve = run(model, dense, data, arguments)
    for mlp in mixtures(model):
        mlp.mix.fill_(1.0)
    with torch.compiler.set_stance("force_eager"):
        result = evaluate(model, dense, data["held_out"][:EVALUATION_ROWS])
    to_checkpoint(model).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    record = {"settings": settings, "held_out": result, "curve": curve}
    (folder / "training.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return record


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", metavar="FOLDER", help="a new folder, for the mixture")
    parser.add_argument("--dense", metavar="MODEL", required=True, help="folder or Hub id of a Llama or Qwen2")
    parser.add_argument("--gguf-file", metavar="NAME", help="a file there that holds the weights, if it is a GGUF")
    parser.add_argument("--corpus", metavar="FILE", required=True, help="a text a line, or .jsonl, .csv, .parquet")
    parser.add_argument("--work", metavar="FOLDER", required=True, help="for tokens, partition and checkpoint")
    for name, (default, what, which) in NUMBERS.items():
        text = f"{what} {which} (default: {default})"
        parser.add_argument(f"--{name}", type=positive_int(what), default=default, help=text)
    for name, (default, what) in RATES.items():
        parser.add_argument(f"--{name}", type=float, default=default, help=f"{what} (default: {default})")
    parser.add_argument("--seed", type=int, default=0, help="of groups, order and prompts (default: 0)")
    parser.add_argument(
        "--device", default="cpu", choices=("cpu", "cuda"), help="cuda computes in bfloat16 (default: cpu)"
    )
    try:
        record = upcycle(parser.parse_args(argv))
    except (OSError, ValueError) as error:
        print(f"upcycle_embedded: {error}", file=sys.stderr)
        return 1
    print(json.dumps(record, indent=2))
    return 0


def _kept(
    path: Path, make: Callable[[], dict[str, torch.Tensor]], settings: dict[str, Any], device: torch.device
) -> dict[str, torch.Tensor]:
    """The tensors of a file, which is made first if it is not there; raise if it was made with other settings."""
    if not path.is_file():
        log(f"makes {path}")
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        save_file(make(), partial, metadata={"settings": json.dumps(settings)})
        partial.replace(path)
    with safe_open(path, framework="pt") as file:
        was = json.loads(file.metadata()["settings"])
    if changed := [name for name in settings if was.get(name) != settings[name]]:
        name = changed[0]
        raise ValueError(
            f"{path}: expected {name}={was.get(name)!r}, as the run began; got {settings[name]!r}. Use another --work."
        )
    return load_file(path, device=str(device))


if __name__ == "__main__":
    sys.exit(main())
