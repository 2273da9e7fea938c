"""The Python examples of a document, as tests run them."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent.parent / "docs"


def run_examples(name: str, replaced: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """Run the examples of docs/NAME one after the other, in the working directory.

    Args:
        name: of the document.
        replaced: what is in it, with what stands for it here: addresses, and budgets.

    Returns:
        Their variables, and the lines that they print.
    """
    printed: list[str] = []
    names: dict[str, Any] = {"print": lambda *values: printed.append(" ".join(map(str, values)))}
    examples = re.findall("```python\n(.*?)```", (DOCS / name).read_text(), re.DOTALL)
    assert examples
    for example in examples:
        for old, new in replaced.items():
            example = example.replace(old, new)
        exec(compile(example, name, "exec"), names)
    return names, printed
