"""Checks of a certificate against the log of commitments of its service, for `smoothgate verify --log`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from smoothgate.certify.answer_certificate import AnswerCertificate
from smoothgate.certify.certificate import Certificate, Commitment
from smoothgate.certify.commitment import Checkpoint, certificate_entry, committed_entry
from smoothgate.certify.merkle import includes, leaf_hash
from smoothgate.certify.signing import CertificateRejected, verify, verify_checkpoint
from smoothgate.errors import MalformedRequest
from smoothgate.schemas import LogCheckpoint, LogProof
from smoothgate.verification import Check

#: Gets a path below the log's URL with a query. Returns JSON, or None where the log answers 404.
Fetch = Callable[[str, Mapping[str, str]], Any]


def check_log(jws: str, key_set: Mapping[str, Any], fetch: Fetch) -> Iterator[Check]:
    """Check that a log holds the commitment of a certificate, and after it the certificate.

    Args:
        jws: the signed certificate.
        key_set: a JWKS.
        fetch: asks the log.

    Raises:
        MalformedRequest: the log answers with something else than checkpoints and proofs.
    """
    try:
        certificate = verify(jws, key_set)
    except CertificateRejected as error:
        yield Check("log", False, f"{error.code}: {error}")
        return
    if not isinstance(certificate, Certificate | AnswerCertificate) or certificate.commitment is None:
        yield Check("log", False, "the certificate names no commitment")
        return
    head = fetch("checkpoint", {})
    if head is None:
        yield Check("log", False, "there is no log at this address")
        return
    try:
        checkpoint = verify_checkpoint(LogCheckpoint.model_validate(head).checkpoint, key_set)
    except CertificateRejected as error:
        yield Check("log checkpoint", False, f"{error.code}: {error}")
        return
    except ValueError as error:
        raise MalformedRequest("The log answers with something else than a checkpoint.") from error
    same = checkpoint.log == certificate.commitment.log
    yield Check(
        "log checkpoint",
        same,
        f"signed, {checkpoint.size} entries" if same else f"of another log: {checkpoint.log}",
    )
    if same:
        entry = committed_entry(certificate, certificate.commitment)
        yield from _check_entries(jws, entry, certificate.commitment, checkpoint, fetch)


def _check_entries(
    jws: str, committed: bytes, commitment: Commitment, checkpoint: Checkpoint, fetch: Fetch
) -> Iterator[Check]:
    found = _proved(leaf_hash(committed), {"number": str(commitment.number)}, checkpoint, fetch)
    yield Check(
        "commitment",
        found == commitment.number,
        f"entry {commitment.number}, before any noise was drawn"
        if found == commitment.number
        else f"entry {commitment.number} is not the commitment to this request and seed",
    )
    expected = leaf_hash(certificate_entry(commitment.number, jws))
    later = _proved(expected, {"leaf": expected.hex()}, checkpoint, fetch)
    yield Check("certificate", later is not None, "not in the log" if later is None else f"entry {later}")
    if found is not None and later is not None:
        yield Check("order", found < later, f"commitment {found}, certificate {later}")


def _proved(leaf: bytes, query: Mapping[str, str], checkpoint: Checkpoint, fetch: Fetch) -> int | None:
    """Number of the entry with this hash, where the log proves that it is in the tree of the checkpoint."""
    answer = fetch("proof", {**query, "size": str(checkpoint.size)})
    if answer is None:
        return None
    try:
        proof = LogProof.model_validate(answer)
        path = [bytes.fromhex(each) for each in proof.path]
    except ValueError as error:
        raise MalformedRequest("The log answers with something else than a proof.") from error
    if proof.number is None:
        return None
    root = bytes.fromhex(checkpoint.root)
    return proof.number if includes(leaf, proof.number, checkpoint.size, path, root) else None
