import torch
from torch import Tensor

from smoothgate.sampling.device import Device
from smoothgate.sampling.forward import Forward
from smoothgate.sampling.queue import SampleRange
from smoothgate.sampling.relay_ticket import RelayTicket
from smoothgate.vision import Layout

CPU = torch.device("cpu")


def relay(n_select: int, delivered: list[tuple[int, Tensor]]) -> RelayTicket:
    return RelayTicket(
        torch.zeros(3, 4, 4),
        (),
        sigma=0.5,
        seed=7,
        samples=64,
        n_select=n_select,
        deliver=lambda first, units: delivered.append((first, units)),
        failed=lambda error: None,
        deadline=float("inf"),
    )


def identity(z: Tensor, sigma: Tensor, layout: Layout = ()) -> Tensor:
    return z.flatten(1)


def test_no_number_of_selection_samples_moves_those_that_are_counted() -> None:
    """Certification samples have a stream of their own."""
    forward = Forward(identity, Device(CPU), 32)
    few, many = (forward.features([SampleRange(relay(n, []), 0, n + 8)]) for n in (4, 12))
    torch.testing.assert_close(few[4:], many[12:])
    torch.testing.assert_close(few[:4], many[:4])


def test_it_is_drawn_no_further_than_allowed() -> None:
    ticket = relay(4, [])
    assert ticket.allowed == 0
    ticket.allow(10)
    ticket.allow(6)
    assert ticket.allowed == 10
    ticket.allow(1000)
    assert ticket.allowed == 64


def test_after_it_is_cancelled_nothing_is_handed_on() -> None:
    delivered: list[tuple[int, Tensor]] = []
    ticket = relay(4, delivered)
    ticket.account(0, torch.ones(2, 48))
    ticket.cancel()
    ticket.account(2, torch.ones(2, 48))
    assert [first for first, _ in delivered] == [0]
    assert ticket.over
    assert ticket.departed


def test_when_the_time_is_up_it_stops_and_does_not_fail() -> None:
    """The vote counts what it has by then."""
    ticket = relay(4, [])
    errors: list[Exception] = []
    ticket._failed = errors.append
    ticket._deadline = 0.0
    ticket.expire()
    assert ticket.over
    assert not ticket.departed
    assert not errors
