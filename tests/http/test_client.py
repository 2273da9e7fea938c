"""`smoothgate.Client` against the running service."""

from smoothgate import Client
from smoothgate.certify.signing import verify
from smoothgate.schemas import SmoothingOptions
from tests.whole_service import FEW, SAMPLES, Gate

SMOOTHING = SmoothingOptions(**FEW)


def test_the_client_asks_and_certifies_and_checks_what_it_gets(gate: Gate) -> None:
    with Client(gate.url) as client:
        assert client.health().status == "ok"
        (model,) = client.models()
        assert model.id == "smoothgate-demo"
        picture = SAMPLES / "seven.png"
        answer = client.chat(
            "What digit is shown?", [picture], smoothing=SMOOTHING, max_tokens=20, temperature=0
        )
        assert answer.answer == "The digit is 7."
        certified = client.certify([picture.read_bytes()], smoothing=SMOOTHING)
        keys = client.key_set().model_dump()
    for issued in (*answer.certificates, *certified.certificates):
        signed = verify(issued.jws, keys)
        assert signed.model_dump() == {k: v for k, v in issued.model_dump().items() if k != "jws"}
