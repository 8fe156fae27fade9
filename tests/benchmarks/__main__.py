"""Measure how fast and in how much memory `moee_hf` embeds, beside two other ways; print the tables of README.md.

    python tests/benchmarks --data FOLDER [--model embedded] [--dtype float32]

FOLDER holds `sts/stsb.test.jsonl.gz` and `summarization/summeval.public.jsonl.gz`, as for `moee evaluate --data`.
Without `--model` the backbone is an OLMoE of 8 layers, hidden size 512, 64 experts of OLMoE-1B-7B's proportions, and
OLMoE's vocabulary, with random weights. On two threads; let nothing else run beside.
"""

import argparse
import logging
import tempfile
from pathlib import Path

import growth
import layer
import loading
import torch
import transformers
import ways

TABLES = ["ways", "layer", "loading", "growth"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", help="a folder or Hub id, or 'embedded' (default: see above)")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tables", nargs="+", default=TABLES, metavar=", ".join(TABLES))
    parser.add_argument("--sizes", nargs="+", type=int, default=[1000, 10_000, 100_000], help="of the last table")
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.disable(logging.WARNING)  # long articles are cut
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as folder:
        ways.make_checkpoint(Path(folder), arguments.model, getattr(torch, arguments.dtype))
        for table in arguments.tables:
            print(f"\n{table}\n")
            if table == "ways":
                ways.print_table(folder, arguments.data, arguments.rounds)
            elif table == "layer":
                layer.print_table(arguments.rounds)
            elif table == "loading":
                loading.print_table(arguments.rounds)
            else:
                growth.print_table(folder, arguments.sizes)


if __name__ == "__main__":
    main()
