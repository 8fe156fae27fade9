"""Measure how fast and in how much memory `moee_hf` embeds, beside two other ways; print the tables of README.md.

    python tests/benchmarks --data FOLDER [--model embedded] [--dtype float32]
    python tests/benchmarks --data FOLDER --device cuda

FOLDER holds `sts/stsb.test.jsonl.gz` and `summarization/summeval.public.jsonl.gz`, as for `moee evaluate --data`; for
a GPU, `sts/stsb.dev.jsonl.gz` and `sts/sickr.test.jsonl.gz` too. Let nothing else run beside.

On the processor, without `--model`, the backbone is an OLMoE of 8 layers, hidden size 512, 64 experts of OLMoE-1B-7B's
proportions, and OLMoE's vocabulary, with random weights; two threads are used. On a GPU it is `OlmoeConfig()`, of 13.4
billion random weights, which are built there; the tables are others.
"""

import argparse
import logging
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import accelerator
import growth
import layer
import loading
import torch
import transformers
import ways
from cases import ACCELERATOR, MINIATURE

TABLES = ["ways", "layer", "loading", "growth"]


def main(argv: Sequence[str] | None = None) -> int:
    """Return how much could not be measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--device", type=torch.device, default="cpu", help="cuda, xpu, ... (default: cpu)")
    parser.add_argument("--dry-run", action="store_true", help="run what is for a GPU in miniature, on any device")
    parser.add_argument("--model", help="a folder or Hub id, or 'embedded' (default: see above)")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--rounds", type=int, help="of which medians are taken (default: 5; on a GPU 2)")
    names = f"{', '.join(TABLES)}; on a GPU {', '.join(accelerator.TABLES)}"
    parser.add_argument("--tables", nargs="+", metavar="TABLE", help=f"{names} (default: all)")
    parser.add_argument("--sizes", nargs="+", type=int, default=[1000, 10_000, 100_000], help="of the last table")
    arguments = parser.parse_args(argv)
    accelerated = arguments.dry_run or arguments.device.type != "cpu"
    known = list(accelerator.TABLES) if accelerated else TABLES
    tables = arguments.tables or known
    if unknown := [table for table in tables if table not in known]:
        parser.error(f"--tables: expected some of {', '.join(known)}; got {', '.join(unknown)}.")
    dtype = getattr(torch, arguments.dtype)
    if not accelerated:
        print_tables(tables, arguments.data, arguments.model, dtype, arguments.rounds or 5, arguments.sizes)
        return 0
    if arguments.model is not None:
        parser.error("--model: expected none on a GPU, where the backbone has random weights.")
    try:
        torch.zeros((), device=arguments.device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        parser.error(f"--device: expected a device of this machine; got '{arguments.device}': {error}")
    scale = MINIATURE if arguments.dry_run else ACCELERATOR
    failures = accelerator.print_tables(tables, arguments.data, scale, dtype, arguments.device, arguments.rounds or 2)
    return len(failures)


def print_tables(
    tables: list[str], data: Path, model: str | None, dtype: torch.dtype, rounds: int, sizes: list[int]
) -> None:
    """Print the tables of the processor."""
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as folder:
        ways.make_checkpoint(Path(folder), model, dtype)
        for table in tables:
            print(f"\n{table}\n")
            if table == "ways":
                ways.print_table(folder, data, rounds)
            elif table == "layer":
                layer.print_table(rounds)
            elif table == "loading":
                loading.print_table(rounds)
            else:
                growth.print_table(folder, sizes)


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.disable(logging.WARNING)  # long articles are cut
    sys.exit(main())
