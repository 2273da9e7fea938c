"""`python -m smoothgate_lab.laboratory.preset_search`: the smallest attack that turns the undefended model.

For each bundled sample and each wrong digit it prints the smallest l2 size, of those tried, at which every
attack gets its digit. Whether that lies within a certified radius, the page shows.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from smoothgate.bundled import DEMO
from smoothgate.psm.unit_encoder import UnitEncoder
from smoothgate.vision import DecodedImage, load
from smoothgate_lab.chat_models.answerer import Answerer, answers
from smoothgate_lab.evaluation.attacks.objectives import towards_answer
from smoothgate_lab.evaluation.attacks.pgd import pgd
from smoothgate_lab.evaluation.victims import Undefended
from smoothgate_lab.laboratory.attack import QUESTION, rounded

_SIZES = (1.0, 1.1, 1.2, 1.3, 1.4)
_TRIES = 3
_STEPS = 40


def main() -> None:
    """Search, and print each size when it is done."""
    adapter = load(str(DEMO.model), device="cpu", dtype=torch.float32)
    victim = Undefended(UnitEncoder.load(adapter, DEMO.psm))
    answerer = Answerer(DEMO.model)
    wanted = [f"The digit is {digit}." for digit in range(10)]
    for path in sorted(DEMO.samples.iterdir()):
        picture = DecodedImage(np.asarray(Image.open(path).convert("RGB")), "PNG", "")
        x = rounded(adapter.canvas(picture).x).expand(len(wanted), -1, -1, -1)
        for eps in _SIZES:
            turned = set(range(len(wanted)))
            for seed in range(_TRIES):
                gen = torch.Generator().manual_seed(seed)
                aim = towards_answer(victim, answerer, QUESTION, wanted, gen)
                attacked = rounded(pgd(aim, x, "l2", eps, _STEPS, gen))
                with torch.inference_mode():
                    given = answers(answerer, QUESTION, victim.see(attacked, gen).tokens)
                turned &= {digit for digit in turned if given[digit] == wanted[digit]}
            print(f"{path.stem}, l2 {eps:g}: {', '.join(map(str, sorted(turned))) or 'none'}", flush=True)


if __name__ == "__main__":
    main()
