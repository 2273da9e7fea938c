"""`smoothgate.Client` against the running service."""

from smoothgate import Client
from smoothgate.certify.signing import verify
from smoothgate.schemas import SmoothingOptions
from tests.fake_vllm import TEXT
from tests.whole_service import SAMPLES, Gate


def test_the_client_asks_and_certifies_and_checks_what_it_gets(quick_gate: Gate) -> None:
    with Client(quick_gate.url) as client:
        assert client.health().status == "ok"
        (model,) = client.models()
        assert model.id == "smoothgate-demo"
        picture = SAMPLES / "seven.png"
        answer = client.chat("What digit is shown?", [picture], max_tokens=20, temperature=0)
        assert answer.answer == TEXT
        certified = client.certify([picture.read_bytes()], smoothing=SmoothingOptions(n_certify=80))
        assert certified.certificates[0].noise.budget == 80
        keys = client.key_set().model_dump()
    for issued in (*answer.certificates, *certified.certificates):
        signed = verify(issued.jws, keys)
        assert signed.model_dump() == {k: v for k, v in issued.model_dump().items() if k != "jws"}
