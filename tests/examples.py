"""The Python examples of a document, as tests run them."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent.parent / "docs"


def run_examples(name: str, replaced: Mapping[str, str]) -> dict[str, Any]:
    """Run the examples of docs/NAME one after the other, in the working directory, and give their variables.

    Args:
        name: of the document.
        replaced: what is in it, with what stands for it here: addresses, and budgets.
    """
    names: dict[str, Any] = {}
    examples = re.findall("```python\n(.*?)```", (DOCS / name).read_text(), re.DOTALL)
    assert examples
    for example in examples:
        for old, new in replaced.items():
            example = example.replace(old, new)
        exec(compile(example, name, "exec"), names)
    return names
