"""Turn a dense language model into a mixture of experts with trained routers, as was done for the embedded backbone.

The neurons of every MLP are split into a shared expert and many small ones; then the model learns to do, with a few
experts a token, what the dense model does with all its neurons. It reads rows of a text, and sentences inside prompts;
no label says which texts are alike. A run that was stopped goes on from its last checkpoint when it is started again.
The result is a plain Qwen2-MoE checkpoint in float32, with the record of the run; quantize.py makes it small.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from upcycling_data import batch, read_corpus
from upcycling_distillation import evaluate
from upcycling_model import Parts, Sizes, load_dense, mixtures, to_checkpoint, to_mixture
from upcycling_partition import partition
from upcycling_training import Training, log, run

from moee_hf.cli.flags import positive_int
from moee_hf.files.folders import check_new_folder, sha256

# flags of numbers, with their defaults
NUMBERS = {
    "shared": (512, "neurons", "of every MLP that all tokens visit"),
    "experts": (32, "experts", "of every MLP"),
    "expert-size": (32, "neurons", "of an expert"),
    "experts-per-token": (8, "experts", "that a token visits"),
    "text-batch-size": (32, "rows", "of consecutive tokens a step"),
    "sequence-length": (512, "tokens", "of such a row"),
    "prompt-batch-size": (256, "sentences", "inside prompts a step"),
    "steps": (1500, "steps", "in all"),
    "save-steps": (200, "steps", "from one checkpoint, and line of progress, to the next"),
}
RATES = {
    "learning-rate": (5e-4, "of matrices, at its highest; that of routers and norms is twice as high"),
    "balance-coefficient": (0.05, "of the load-balancing loss, in the first half of the steps"),
    "final-balance-coefficient": (0.5, "the same in the last quarter"),
}
PARTITION_ROWS = 64  # of text, which tell what the neurons do
EVALUATION_ROWS = 128  # of held-out text


def upcycle(
    folder: str,
    *,
    work: str,
    dense: str,
    gguf_file: str | None,
    corpus: str,
    sizes: Sizes,
    training: Training,
    device: str,
) -> dict[str, Any]:
    """Make the mixture, train it, and save it with the record of the run, which is returned.

    Args:
        folder: A new or empty folder, for the mixture.
        work: A folder for what a run that was stopped needs to go on.
        dense: Folder or Hub id of the dense model.
        gguf_file: The name of a GGUF file there, if the weights are in one.
        corpus: A file of texts.
        sizes: Of the experts.
        training: The settings of the training.
        device: "cpu" or "cuda".

    Raises:
        ValueError: If a model, a file or a flag is not as expected.
        OSError: If a file cannot be read or written.
    """
    target = check_new_folder(folder)
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device: expected 'cpu', as torch finds no GPU here; got 'cuda'.")
    settings = {
        "dense": dense,
        "gguf_file": gguf_file,
        "corpus": corpus,
        "corpus_sha256": sha256(Path(corpus)),
        **sizes._asdict(),
        **dataclasses.asdict(training),
    }
    teacher, tokenizer = load_dense(dense, gguf_file, sizes)
    teacher.to(device)

    def corpus_rows() -> dict[str, torch.Tensor]:
        sentences = training.steps * training.prompt_batch_size
        return read_corpus(corpus, tokenizer, training.sequence_length, sentences, training.seed)

    def layer_parts() -> dict[str, torch.Tensor]:
        text = batch(data, "text", PARTITION_ROWS, 1, training.seed)
        return partition(teacher, text.ids, sizes, training.seed)

    data = _kept(Path(work) / "data.safetensors", corpus_rows, settings, device)
    parts = _kept(Path(work) / "partition.safetensors", layer_parts, settings, device)
    layers = [Parts(*of_layer) for of_layer in zip(*(parts[name] for name in Parts._fields), strict=True)]
    model = to_mixture(teacher, layers, sizes.experts_per_token)
    curve = run(model, teacher, data, training, Path(work) / "checkpoint.pt")
    for mlp in mixtures(model):
        mlp.mix.fill_(1.0)
    with torch.compiler.set_stance("force_eager"):
        result = evaluate(model, teacher, data["held_out"][:EVALUATION_ROWS])
    to_checkpoint(model).save_pretrained(target)
    tokenizer.save_pretrained(target)
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    record = {"settings": settings, "versions": versions, "held_out": result, "curve": curve}
    (target / "training.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
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
    flags = vars(parser.parse_args(argv))
    sizes = Sizes(*(flags.pop(name) for name in Sizes._fields))
    try:
        training = Training(**{field.name: flags.pop(field.name) for field in dataclasses.fields(Training)})
        record = upcycle(**flags, sizes=sizes, training=training)
    except (OSError, ValueError) as error:
        print(f"upcycle_embedded: {error}", file=sys.stderr)
        return 1
    print(json.dumps(record, indent=2))
    return 0


def _kept(
    path: Path, make: Callable[[], dict[str, torch.Tensor]], settings: dict[str, Any], device: str
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
    return load_file(path, device=device)


if __name__ == "__main__":
    sys.exit(main())
