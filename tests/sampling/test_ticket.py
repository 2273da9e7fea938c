import contextlib
import math
import threading
from concurrent.futures import CancelledError

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from smoothgate.certify.statement import Terms
from smoothgate.errors import NotReady, SamplerFailed
from smoothgate.sampling.ticket import SamplingTask, Ticket

TERMS = Terms(sigma=0.1, alpha=0.001, eps=(0.05,))
UNITS = F.normalize(torch.randn(4, 16, generator=torch.Generator().manual_seed(0)) + 0.5, dim=1)


def ticket(**options: float) -> Ticket:
    return Ticket(SamplingTask(torch.zeros(3, 4, 4), TERMS, 4, 64), 1, **options)


def select(each: Ticket) -> None:
    scores = each.certifier.select(0, UNITS)
    assert scores is not None
    each.account(0, scores)


def test_the_direction_is_known_before_the_result() -> None:
    each = ticket()
    select(each)
    torch.testing.assert_close(each.direction.result(0), F.normalize(UNITS.sum(0), dim=0))
    assert not each.over
    each.account(4, torch.full((64,), 0.9, dtype=torch.float64))
    assert each.over
    assert each.result.result(0).reason == "budget"


def test_scores_that_come_after_the_end_are_ignored() -> None:
    each = ticket(deadline=0.0)
    select(each)
    each.account(4, torch.full((10,), 0.9, dtype=torch.float64))
    each.expire()
    each.account(14, torch.full((54,), 0.9, dtype=torch.float64))
    result = each.result.result(0)
    assert (result.reason, result.rule.n) == ("deadline", 10)


def test_the_deadline_ends_it_only_with_a_score() -> None:
    each = ticket(deadline=0.0)
    each.expire()
    select(each)
    each.expire()
    assert not each.over
    each.account(4, torch.full((1,), 0.9, dtype=torch.float64))
    each.expire()
    assert each.result.result(0).reason == "deadline"


@pytest.mark.parametrize("options", [{}, {"deadline": math.inf}])
def test_before_the_deadline_it_goes_on(options: dict[str, float]) -> None:
    each = ticket(**options)
    select(each)
    each.account(4, torch.full((1,), 0.9, dtype=torch.float64))
    each.expire()
    assert not each.over


def test_a_client_that_leaves_ends_it() -> None:
    each = ticket()
    each.cancel()
    assert each.over
    select(each)
    each.fail(NotReady("too late"))
    for future in (each.direction, each.result):
        with pytest.raises(CancelledError):
            future.result(0)


def test_an_error_after_the_direction_fails_the_result_alone() -> None:
    each = ticket()
    select(each)
    each.fail(SamplerFailed("broken"))
    assert each.direction.result(0).shape == (16,)
    with pytest.raises(SamplerFailed):
        each.result.result(0)


def test_two_threads_that_end_it_at_once_do_not_collide(monkeypatch: pytest.MonkeyPatch) -> None:
    each, both, errors = ticket(), threading.Barrier(2), []
    done = each.direction.done

    def slow() -> bool:
        """Both threads see an unsettled future, if both get that far."""
        found = done()
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(0.2)
        return found

    monkeypatch.setattr(each.direction, "done", slow)

    def fail() -> None:
        try:
            each.fail(SamplerFailed("broken"))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=fail) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    with pytest.raises(SamplerFailed):
        each.direction.result(0)


def test_tickets_of_one_request_share_it_and_others_do_not() -> None:
    assert ticket().request != ticket().request
    a, b = (Ticket(ticket().task, 1, request=7) for _ in range(2))
    assert a.request == b.request
