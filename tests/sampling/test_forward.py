"""Noisy forwards, checked as far as possible without a GPU."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from smoothgate.certify.statement import Terms
from smoothgate.errors import SamplerFailed
from smoothgate.psm.calibration import calibrate
from smoothgate.psm.unit_encoder import UnitEncoder
from smoothgate.sampling import noise
from smoothgate.sampling.device import Device
from smoothgate.sampling.forward import Forward
from smoothgate.sampling.queue import SampleRange
from smoothgate.sampling.ticket import SamplingTask, Ticket
from smoothgate.vision import Layout, load
from tests import checkpoints, psms

CPU, META = torch.device("cpu"), torch.device("meta")
SHAPE = (3, 4, 4)


def units(z: Tensor, sigma: Tensor, layout: Layout = ()) -> Tensor:
    return F.normalize(z.flatten(1), dim=1)


def ticket(seed: int, sigma: float = 0.1) -> Ticket:
    x = torch.rand(SHAPE, generator=torch.Generator().manual_seed(seed))
    return Ticket(SamplingTask(x, Terms(sigma=sigma, alpha=0.001, eps=(0.05,)), 4, 64), seed)


def test_a_row_is_canvas_plus_sigma_times_the_samples_own_noise() -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    def recording(z: Tensor, sigma: Tensor, layout: Layout = ()) -> Tensor:
        seen.append((z.clone(), sigma.clone()))
        return units(z, sigma)

    a, b = ticket(1, 0.1), ticket(2, 0.7)
    Forward(recording, Device(CPU), 8).features([SampleRange(a, 5, 2), SampleRange(b, 0, 1)])
    ((z, sigma),) = seen
    drawn = torch.empty(3, *SHAPE)
    noise.GENERATOR.fill(drawn, [(1, 2**32 + 1), (1, 2**32 + 2), (2, 0)])
    assert sigma.tolist() == pytest.approx([0.1, 0.1, 0.7])
    torch.testing.assert_close(
        z, torch.stack([a.task.x, a.task.x, b.task.x]) + sigma.view(-1, 1, 1, 1) * drawn
    )


def test_scores_come_with_their_tickets_and_numbers() -> None:
    a, b = ticket(1), ticket(2)
    forward = Forward(units, Device(CPU), 8)
    pieces = forward.launch([SampleRange(a, 0, 4), SampleRange(b, 2, 2)]).fetch()
    assert [(each, first, len(scores)) for each, first, scores in pieces] == [(a, 0, 4)]
    a.account(0, pieces[0][2])
    # The first samples of b come in, and with them the scores of its whole selection.
    pieces = forward.launch([SampleRange(b, 0, 2), SampleRange(a, 4, 3)]).fetch()
    assert [(each, first, len(scores)) for each, first, scores in pieces] == [(b, 0, 4), (a, 4, 3)]


def test_a_picture_whose_selection_cannot_be_taken_in_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    odd, other = ticket(1), ticket(2)

    def breaks(first: int, units: Tensor) -> None:
        raise RuntimeError("no memory for the sum")

    monkeypatch.setattr(odd.certifier, "select", breaks)
    pieces = Forward(units, Device(CPU), 8).launch([SampleRange(odd, 0, 4), SampleRange(other, 0, 4)]).fetch()
    assert [each for each, _, _ in pieces] == [other]
    with pytest.raises(SamplerFailed):
        odd.result.result(0)


class _Memory:
    """An encoder on a device with room for a number of samples."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.sizes: list[int] = []

    def units(self, z: Tensor, sigma: Tensor, layout: Layout = ()) -> Tensor:
        self.sizes.append(len(z))
        if len(z) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return units(z, sigma)


def test_a_batch_that_memory_has_no_room_for_is_computed_in_halves() -> None:
    a, b, memory = ticket(1), ticket(2), _Memory(3)
    batch = [SampleRange(a, 0, 4), SampleRange(b, 0, 3), SampleRange(a, 9, 1)]
    forward = Forward(memory.units, Device(CPU), 8)
    features = forward.features(batch)
    torch.testing.assert_close(features, Forward(units, Device(CPU), 8).features(batch))
    assert memory.sizes == [8, 4, 2, 2, 2, 2]
    memory.sizes.clear()
    forward.features(batch)
    assert memory.sizes == [2, 2, 2, 2], "later batches are small from the start"


def test_where_not_even_one_sample_fits_the_batch_fails() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        Forward(_Memory(0).units, Device(CPU), 8).features([SampleRange(ticket(1), 0, 4)])


def test_nothing_waits_for_the_device_within_a_batch() -> None:
    """On `meta` tensors have no values, so that reading one raises."""
    a, b = ticket(1), ticket(2)
    ((_, first, scores),) = Forward(units, Device(CPU), 8).launch([SampleRange(b, 0, 4)]).fetch()
    b.account(first, scores)
    scored = Forward(units, Device(META), 8).collect([SampleRange(a, 0, 4), SampleRange(b, 4, 3)])
    assert [(each, first, scores.shape) for each, first, scores in scored] == [(a, 0, (4,)), (b, 4, (3,))]


def test_the_encoder_compiles_to_one_graph(tmp_path: Path) -> None:
    """CUDA graphs need a graph without breaks. It gives the same features."""
    adapter = load(str(checkpoints.build(tmp_path)), device="cpu", dtype=torch.float32)
    shape = adapter.canvas_shape
    assert shape is not None
    with torch.no_grad():
        tokens = adapter.tokens(torch.rand(8, *shape))
    encoder = UnitEncoder(adapter, calibrate([tokens], None, adapter.digest), psms.build(adapter.digest))
    z, sigma = torch.rand(4, *shape), torch.full((4,), 0.3)
    with torch.inference_mode():
        compiled = torch.compile(encoder.units, fullgraph=True, dynamic=False, backend="eager")
        torch.testing.assert_close(compiled(z, sigma), encoder.units(z, sigma))
