"""What `moee` says of itself: its commands in groups, each with an example."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

# the order in which a newcomer needs them; with the files that `moee examples examples` writes
EXAMPLES = {
    "Begin": {
        "examples": "moee examples examples",
    },
    "Embed": {
        "similarity": 'moee similarity "A cat sleeps." "A kitten naps." "Prices fell."',
        "embed": "moee embed examples/corpus.txt --output vectors.npy",
        "calibrate": "moee calibrate examples/corpus.txt --output my-model",
    },
    "Look": {
        "search": 'moee search examples/corpus.txt "somebody makes music"',
        "explain": 'moee explain "A cat sleeps." "A kitten naps." --output pair.png',
        "atlas": "moee atlas examples/corpus.txt --output atlas.html",
        "demo": "moee demo",
        "info": "moee info allenai/OLMoE-1B-7B-0924",
        "backbones": "moee backbones",
    },
    "Score": {
        "evaluate": "moee evaluate --data examples --combination hs rw sum --output results",
        "robustness": "moee robustness --data examples --output robustness",
        "complementarity": "moee complementarity --data examples --clusters 5 --output clusters",
    },
    "Publish and serve": {
        "publish": "moee publish olmoe-1b-7b --output repository",
        "serve": "moee serve --port 8000",
    },
}


def overview(helps: Mapping[str, str | None]) -> Iterator[str]:
    """Yield the lines of an overview.

    Args:
        helps: What each command does, by its name.
    """
    width = max(map(len, helps))
    for group, examples in EXAMPLES.items():
        yield f"{group}:"
        for name, example in examples.items():
            yield f"  {name:<{width}}  {helps[name]}"
            yield f"  {'':<{width}}  $ {example}"
        yield ""
    yield "`moee COMMAND --help` says all of a command. `moee examples examples` writes the files of these examples."
