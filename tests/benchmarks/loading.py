"""Loading the embedded backbone in a fresh process: from its GGUF file, and from the same weights in safetensors."""

import statistics
import tempfile
import time

from measuring import in_new_process

from moee_hf import MoEEModel


def print_table(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        MoEEModel.from_pretrained("embedded").save_pretrained(folder)
        sources = {"GGUF": "embedded", "safetensors": folder}
        seconds = {name: [] for name in sources}
        for _ in range(rounds):
            for name, source in sources.items():
                seconds[name].append(in_new_process(time_loading, source))
    print("| weights | seconds |\n| --- | --- |")
    for name, of_format in seconds.items():
        print(f"| {name} | {statistics.median(of_format):.2f} |")


def time_loading(source: str) -> float:
    """Seconds of `from_pretrained`, without those of importing."""
    start = time.perf_counter()
    MoEEModel.from_pretrained(source)
    return time.perf_counter() - start
