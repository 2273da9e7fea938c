"""Batches that nobody asked for: they warm up a device, and show how fast it draws what is served."""

from __future__ import annotations

from smoothgate.certify.statement import Terms
from smoothgate.sampling import noise
from smoothgate.sampling.forward import Forward
from smoothgate.sampling.queue import SampleRange
from smoothgate.sampling.ticket import SamplingTask, Ticket
from smoothgate.vision import Canvas

_SIGMA = 0.1


def rehearse(forward: Forward, canvas: Canvas, rows: int, batches: int) -> float:
    """Draw batches of a canvas as for a client: noise, compiled forward, selection, scores.

    Args:
        forward: in the thread that has entered its device.
        canvas: of the size that is usual.
        rows: samples of a batch.
        batches: how many are timed. One before them is not, because it compiles.

    Returns:
        Seconds of the device for the timed batches.

    Raises:
        torch.OutOfMemoryError: there is no room for a single sample.
    """
    terms = Terms(sigma=_SIGMA, alpha=0.001, eps=(_SIGMA,))
    task = SamplingTask(canvas.x, terms, rows, rows * batches, canvas.layout)
    ticket = Ticket(task, noise.fresh_seed())
    seconds = 0.0
    for batch in range(1 + batches):
        scored = forward.launch([SampleRange(ticket, batch * rows, rows)])
        for _, first, scores in scored.fetch():
            with ticket.failing_alone("scores"):
                ticket.account(first, scores)
        seconds += scored.seconds if batch else 0.0
    return seconds
