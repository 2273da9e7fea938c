"""What each account asked for, by name, as long as there are not too many."""

from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from smoothgate.gate import accounts
from smoothgate.gate.account_metrics import OTHERS, AccountMetrics
from tests.fake_vllm import USAGE
from tests.quick_gate import OpenGate
from tests.whole_service import data_uri


def _counted(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_an_account_is_counted_by_its_name(open_gate: OpenGate, tmp_path: Path) -> None:
    dora, key = accounts.new("dora", requests_per_minute=2)
    accounts.save(tmp_path / "accounts.json", [dora])
    gate = open_gate(accounts=tmp_path / "accounts.json")
    ask = {"message": "What digit is shown?", "images": [data_uri("seven.png")]}
    headers = {"Authorization": f"Bearer {key}"}
    statuses = [gate.http.post("/v1/chat", json=ask, headers=headers).status_code for _ in range(3)]
    assert statuses == [200, 200, 429]
    # Of a picture of typical size, 16 + 64 noisy forwards, each time.
    assert _counted("smoothgate_account_requests_total", account="dora") == 3
    assert _counted("smoothgate_account_work_total", account="dora") == 160
    assert _counted("smoothgate_account_tokens_total", account="dora") == 2 * USAGE["total_tokens"]
    refused = {"account": "dora", "code": "requests_per_minute"}
    assert _counted("smoothgate_account_refusals_total", **refused) == 1


def test_work_that_was_not_needed_is_counted_apart() -> None:
    """A counter never falls."""
    account, _ = accounts.new("emil")
    counted = AccountMetrics()
    counted.worked(account, 300)
    counted.worked(account, -100)
    assert _counted("smoothgate_account_work_total", account="emil") == 300
    assert _counted("smoothgate_account_work_returned_total", account="emil") == 100


@pytest.mark.parametrize("most", [0, 2])
def test_further_accounts_are_counted_together(most: int) -> None:
    counted = AccountMetrics(most)
    before = _counted("smoothgate_account_requests_total", account=OTHERS)
    for number in (*range(5), 0, 1):
        account, _ = accounts.new(f"many-{most}-{number}")
        counted.asked(account)
    # The first two are asked for twice.
    expected = 7 if most == 0 else 3
    assert _counted("smoothgate_account_requests_total", account=OTHERS) - before == expected
    with pytest.raises(ValueError, match="name"):
        accounts.new(OTHERS)
