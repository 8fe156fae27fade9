"""Write what is generated: lists of backbones and recipes, their memory, the paper's averages, our scores.

python tests/support/update_docs.py [scores OUT/scores.md] ["other scores" OUT/scores.md] ...
"""

import re
import sys
import textwrap
from pathlib import Path

import torch

from moee_hf.evaluation.paper.tables import PROMPTS, paper_table, papers, read_paper
from moee_hf.evaluation.tables import Table
from moee_hf.info import model_info, supported_backbones
from moee_hf.model.backbone_moee import REFUSED
from moee_hf.publishing import read_recipe

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "tests"))  # where this is a script
from support import full_size  # noqa: E402

CARD = "moee_hf/embedded/README.md"


def backbones():
    names = ", ".join(f"`{name}`" for name in supported_backbones())
    return textwrap.fill(names, 119, break_on_hyphens=False)


def refused():
    return Table(["`model_type`", "why, and what to use"], [[f"`{k}`", why] for k, why in REFUSED.items()]).markdown()


def recipes():
    rows = []
    for path in sorted((ROOT / "configs").glob("*.yaml")):
        recipe = read_recipe(path)
        rows.append([f"[{path.name}]({path.name})", recipe.base_model_name_or_path, license_of(recipe)])
    return Table(["recipe", "backbone", "its licence"], rows).markdown()


def license_of(recipe):
    return recipe.license if recipe.license_name is None else f"[{recipe.license_name}]({recipe.license_link})"


def memory():
    """What the weights of each recipe's backbone take, and the smallest card that holds them and a batch."""
    rows = []
    for path in sorted((ROOT / "configs").glob("*.yaml")):
        info = model_info(full_size.config_of(path.stem))
        layer, experts = info.layer_memory(torch.bfloat16, "nf4"), info.experts["nf4"]
        of_experts = sum(shape.numel() for module in experts for shape in module) * torch.bfloat16.itemsize
        kept = stored(path.stem, info)
        needed = [f"stored in {kept}" if kept else needs(info, quantization) for quantization in ("int8", "nf4")]
        rows.append([path.stem, needs(info), *needed, *(f"{size / 2**30:.2f} GiB" for size in (layer, of_experts))])
    return Table(["recipe", "bfloat16", "fp8, int8", "nf4", "experts of a layer", "of all layers"], rows).markdown()


def stored(name, info):
    """The format that a checkpoint is in already, as which it cannot be had in another; None for whole weights."""
    return "GGUF" if name == "embedded" else info.quantized_by


def needs(info, quantization=None):
    cards = info.cards(torch.bfloat16, quantization)
    weights = info.memory(torch.bfloat16, quantization) / 2**30
    return f"{weights:.2f} GiB, " + (f"a card of {cards[0]} GB" if cards else "several cards")


def memory_comment(name):
    """The line of a recipe that says what its backbone needs."""
    info = model_info(full_size.config_of(name))
    kept = stored(name, info)
    return f"# memory: {needs(info)}; {f'stored in {kept}' if kept else 'in nf4 ' + needs(info, 'nf4')}"


def paper_averages():
    """The averages over the six types of tasks, published and ours, which nobody has measured yet."""
    combinations = ("hs", "rw", "concat", "sum")
    rows = []
    for name in papers():
        table = paper_table(paper := read_paper(name), [])
        for prompt in PROMPTS:
            average = next(row for row in table.rows if row[:3] == ["average", "all", prompt])
            published, ours = (
                [average[table.header.index(f"{whose} {combination}")] for combination in combinations]
                for whose in ("paper", "ours")
            )
            rows.append([paper.name, prompt, *published, *ours, f"`--paper {name}`"])
    header = [f"{whose} {combination}" for whose in ("paper", "ours") for combination in combinations]
    return Table(["backbone", "prompt", *header, "command"], rows).markdown()


# what is generated, by document and by the name in its comments
GENERATED = {
    ("BACKBONES.md", "backbones"): backbones,
    ("BACKBONES.md", "refused"): refused,
    ("configs/README.md", "recipes"): recipes,
    ("configs/README.md", "memory"): memory,
    ("moee_hf/evaluation/README.md", "paper"): paper_averages,
}


def block(document, name):
    """What a document has between the comments of this name."""
    text = (ROOT / document).read_text(encoding="utf-8")
    return re.search(rf"<!-- {name} -->\n(.*?)\n?<!-- /{name} -->", text, re.DOTALL)[1]


def write_block(document, name, content):
    path = ROOT / document
    text = path.read_text(encoding="utf-8")
    between = rf"(?<=<!-- {name} -->\n).*?(?=<!-- /{name} -->)"
    path.write_text(re.sub(between, lambda _: f"{content}\n", text, flags=re.DOTALL), encoding="utf-8")


if __name__ == "__main__":
    for (document, name), generate in GENERATED.items():
        write_block(document, name, generate())
    for path in (ROOT / "configs").glob("*.yaml"):
        others = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("# memory: ")]
        path.write_text("\n".join([memory_comment(path.stem), *others, ""]), encoding="utf-8")
    for name, file in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
        write_block(CARD, name, Path(file).read_text(encoding="utf-8").strip())
