"""The unit of work: the same on every device, as far as that can be seen without a GPU."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from smoothgate.certify.statement import Terms
from smoothgate.psm.calibration import calibrate
from smoothgate.psm.unit_encoder import UnitEncoder
from smoothgate.sampling import noise
from smoothgate.sampling.forward import Forward
from smoothgate.sampling.job import Job
from smoothgate.sampling.queue import Slice
from smoothgate.vision import Layout, load
from tests import checkpoints, psms

CPU, META = torch.device("cpu"), torch.device("meta")
SHAPE = (3, 4, 4)


def units(z: Tensor, sigma: Tensor, layout: Layout = ()) -> Tensor:
    return F.normalize(z.flatten(1), dim=1)


def job(seed: int, sigma: float = 0.1) -> Job:
    x = torch.rand(SHAPE, generator=torch.Generator().manual_seed(seed))
    return Job(x, Terms(sigma=sigma, alpha=0.001, eps=(0.05,)), seed=seed, n_select=4, budget=64)


def test_a_row_is_canvas_plus_sigma_times_the_samples_own_noise() -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    def recording(z: Tensor, sigma: Tensor, layout: Layout = ()) -> Tensor:
        seen.append((z.clone(), sigma.clone()))
        return units(z, sigma)

    a, b = job(1, 0.1), job(2, 0.7)
    Forward(recording, CPU, 8).features([Slice(a, 5, 2), Slice(b, 0, 1)])
    ((z, sigma),) = seen
    drawn = torch.empty(3, *SHAPE)
    noise.generator_for(CPU).fill(drawn, [(1, 5), (1, 6), (2, 0)])
    assert sigma.tolist() == pytest.approx([0.1, 0.1, 0.7])
    torch.testing.assert_close(z, torch.stack([a.x, a.x, b.x]) + sigma.view(-1, 1, 1, 1) * drawn)


def test_scores_come_with_their_jobs_and_numbers() -> None:
    a, b = job(1), job(2)
    forward = Forward(units, CPU, 8)
    pieces = forward.launch([Slice(a, 0, 4), Slice(b, 2, 2)]).fetch()
    assert [(each, first, len(scores)) for each, first, scores in pieces] == [(a, 0, 4)]
    # What b was missing comes in, and with it the scores of both its parts.
    pieces = forward.launch([Slice(b, 0, 2)]).fetch()
    assert [(each, first, len(scores)) for each, first, scores in pieces] == [(b, 0, 2), (b, 2, 2)]


def test_nothing_waits_for_the_device_within_a_batch() -> None:
    """On `meta` there are no values: a tensor that is looked at raises."""
    a, b = job(1), job(2)
    b.direction.set_result(torch.ones(48))
    scored = Forward(units, META, 8).score([Slice(a, 0, 4), Slice(b, 4, 3)])
    assert [(each, first, scores.shape) for each, first, scores in scored] == [(a, 0, (4,)), (b, 4, (3,))]


def test_the_encoder_is_one_graph(tmp_path: Path) -> None:
    """What CUDA graphs need: no break, and the same features."""
    adapter = load(str(checkpoints.build(tmp_path)), device="cpu", dtype=torch.float32)
    with torch.no_grad():
        tokens = adapter.tokens(torch.rand(8, *adapter.canvas_shape))
    encoder = UnitEncoder(adapter, calibrate([tokens], None, adapter.digest), psms.build(adapter.digest))
    z, sigma = torch.rand(4, *adapter.canvas_shape), torch.full((4,), 0.3)
    with torch.inference_mode():
        compiled = torch.compile(encoder.units, fullgraph=True, dynamic=False, backend="eager")
        torch.testing.assert_close(compiled(z, sigma), encoder.units(z, sigma))
