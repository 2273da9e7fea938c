from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from smoothgate_lab.training_loop import HeldOut, Schedule, bfloat16, seeded, train

SCHEDULE = Schedule(steps=40, muon_lr=0.01, adam_lr=1e-2, warmup=5)


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.norm(self.layers(x))
        return result


def _run(folder: Path, *, interrupt_at: int | None = None) -> tuple[dict[str, Tensor], list[float]]:
    torch.manual_seed(0)
    net = _Net()
    losses: list[float] = []

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        if step == interrupt_at:
            raise KeyboardInterrupt
        x = torch.randn(16, 6, generator=seeded(1, step))
        value = (net(x) - x[:, :4]).square().mean()
        losses.append(float(value.detach()))
        return value, {}

    if interrupt_at is None:
        train("net", net, loss, SCHEDULE, folder, save_every=8)
    else:
        with pytest.raises(KeyboardInterrupt):
            train("net", net, loss, SCHEDULE, folder, save_every=8)
    return net.state_dict(), losses


def test_an_interrupted_run_that_is_resumed_gives_the_same_weights(tmp_path: Path) -> None:
    whole, losses = _run(tmp_path / "whole")
    assert losses[-1] < losses[0]
    _run(tmp_path / "broken", interrupt_at=21)
    resumed, rest = _run(tmp_path / "broken")
    assert len(rest) == 40 - 16
    assert rest == losses[16:]
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name


def test_a_finished_run_is_not_repeated(tmp_path: Path) -> None:
    first, _ = _run(tmp_path)
    again, losses = _run(tmp_path)
    assert losses == []
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    net = _Net()
    with pytest.raises(FloatingPointError, match="step 0"):
        train("net", net, lambda step: (net(torch.full((4, 6), torch.nan)).sum(), {}), SCHEDULE, tmp_path)


def test_accumulated_batches_are_one_update_of_their_mean(tmp_path: Path) -> None:
    seen: list[int] = []

    def trained(folder: str, accumulate: int) -> dict[str, Tensor]:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(6, 4))

        def one(batch: int) -> Tensor:
            seen.append(batch)
            x = torch.randn(8, 6, generator=seeded(1, batch))
            squares: Tensor = (net(x) - x[:, :4]).square()
            return squares.mean()

        def loss(batch: int) -> tuple[Tensor, dict[str, float]]:
            if accumulate > 1:
                return one(batch), {}
            return torch.stack([one(3 * batch + part) for part in range(3)]).mean(), {}

        schedule = Schedule(steps=5, muon_lr=0.0, adam_lr=1e-2, warmup=1, accumulate=accumulate)
        train("net", net, loss, schedule, tmp_path / folder)
        return net.state_dict()

    one_by_one, at_once = trained("a", 3), trained("b", 1)
    assert seen == [*range(15), *range(15)]
    for name, value in one_by_one.items():
        torch.testing.assert_close(value, at_once[name])


@pytest.mark.parametrize("patience", [2, 100])
def test_the_weights_of_the_best_measurement_are_left(tmp_path: Path, patience: int) -> None:
    torch.manual_seed(0)
    net = _Net()
    measured: list[dict[str, Tensor]] = []

    def measure() -> float:
        measured.append({name: value.clone() for name, value in net.state_dict().items()})
        return abs(len(measured) - 2)  # the second is the best

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        x = torch.randn(16, 6, generator=seeded(1, step))
        return (net(x) - x[:, :4]).square().mean(), {}

    train("net", net, loss, SCHEDULE, tmp_path, held_out=HeldOut(measure, every=7, patience=patience))
    # At steps 7, 14, ... 35 and at the end; or until two in a row were no better.
    assert len(measured) == (4 if patience == 2 else 6)
    for name, value in net.state_dict().items():
        assert torch.equal(value, measured[1][name])
    assert not torch.equal(measured[1]["layers.0.weight"], measured[-1]["layers.0.weight"])


def test_the_schedule_rises_stays_and_falls() -> None:
    schedule = Schedule(steps=100, muon_lr=1, adam_lr=1, warmup=10, decay=0.4)
    assert schedule.factor(0) == pytest.approx(0.1)
    assert schedule.factor(30) == schedule.factor(59) == 1
    assert schedule.factor(80) == pytest.approx(0.5)


@pytest.mark.parametrize("enabled", [True, False])
def test_bfloat16_is_computed_in_where_it_is_asked_for(enabled: bool) -> None:
    x = torch.ones(2, 2)
    with bfloat16("cpu", enabled=enabled):
        assert (x @ x).dtype == (torch.bfloat16 if enabled else torch.float32)
    assert (x @ x).dtype == torch.float32
