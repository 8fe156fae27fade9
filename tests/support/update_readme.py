"""Write what is generated: backbones and the paper's averages into the README, scores into the embedded model's card.

python tests/update_readme.py [OUT/scores.md]
"""

import re
import sys
import textwrap
from pathlib import Path

from moee_hf.evaluation.paper.tables import PROMPTS, paper_table, papers, read_paper
from moee_hf.evaluation.tables import Table
from moee_hf.info import supported_backbones

README = Path(__file__).parents[2] / "README.md"
CARD = README.parent / "moee_hf" / "embedded" / "README.md"


def backbones():
    names = ", ".join(f"`{name}`" for name in supported_backbones())
    return textwrap.fill(names, 119, break_on_hyphens=False)


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


def replace(text, name, block):
    return re.sub(rf"(?<=<!-- {name} -->\n).*?(?=<!-- /{name} -->)", lambda _: f"{block}\n", text, flags=re.DOTALL)


if __name__ == "__main__":
    text = README.read_text(encoding="utf-8")
    text = replace(text, "backbones", backbones())
    text = replace(text, "paper", paper_averages())
    README.write_text(text, encoding="utf-8")
    if len(sys.argv) > 1:
        scores = Path(sys.argv[1]).read_text(encoding="utf-8").strip()
        CARD.write_text(replace(CARD.read_text(encoding="utf-8"), "scores", scores), encoding="utf-8")
