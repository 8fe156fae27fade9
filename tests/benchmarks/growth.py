"""1,000, 10,000 and 100,000 short texts as a stream: time by text, and peak memory."""

import random
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from measuring import PeakMemory, in_new_process

from moee_hf import MoEEModel
from moee_hf.files.embeddings import EmbeddingWriter

WORDS = "a the old young man woman dog cat child runs sings reads buys book in of house street snow garden"


def print_table(folder: str, sizes: list[int]) -> None:
    print("| texts | ms by text | peak memory, MiB |\n| --- | --- | --- |")
    for size in sizes:
        seconds, peak = in_new_process(embed, folder, size)
        print(f"| {size} | {1000 * seconds / size:.2f} | {peak} |", flush=True)


def embed(folder: str, size: int) -> tuple[float, int]:
    model = MoEEModel.from_pretrained(folder)
    model.encode("warm")
    with tempfile.TemporaryDirectory() as output, PeakMemory() as memory:
        start, embedded = time.perf_counter(), texts(size)
        with EmbeddingWriter(str(Path(output) / "vectors.npy"), {}) as writer:
            for embeddings in model.encode_stream(texts(size)):
                writer.write(list(islice(embedded, len(embeddings))), embeddings)
        seconds = time.perf_counter() - start
    return seconds, memory.peak


def texts(size: int) -> Iterator[str]:
    draw, words = random.Random(0), WORDS.split()
    for number in range(size):
        yield f"{' '.join(draw.choices(words, k=draw.randint(4, 14)))} {number}"
