"""Write the list of backbones of the installed transformers into the README."""

import re
import textwrap
from pathlib import Path

from moee_hf.backbones import supported_backbones

path = Path(__file__).parents[1] / "README.md"
listed = textwrap.fill(", ".join(f"`{name}`" for name in supported_backbones()), 119, break_on_hyphens=False)
text = re.sub(
    r"(?<=<!-- backbones -->\n).*(?=<!-- /backbones -->)",
    f"{listed}\n",
    path.read_text(encoding="utf-8"),
    flags=re.DOTALL,
)
path.write_text(text, encoding="utf-8")
