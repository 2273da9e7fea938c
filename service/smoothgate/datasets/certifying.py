"""Certifies pictures one after the other, in this process or on Ray Data. Both give rows as they come."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from smoothgate.certifier import Certifier
from smoothgate.datasets.rows import Row, row_of

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

# Most pictures that an actor gets at a time: a lost actor loses no more.
_BLOCK = 16
# Blocks for each actor, at least, so that all of them end at about the same time.
_BLOCKS = 4


def certified_here(
    paths: Sequence[str], settings: Mapping[str, Any], told: Callable[[float, float], None]
) -> Iterator[Row]:
    """The rows of pictures, in their order.

    Args:
        paths: of the pictures.
        settings: as `Certifier` takes them.
        told: called in the end with the seconds since the model was loaded, and the share of them that the
            sampler was busy.
    """
    with Certifier(**settings) as certifier:
        began = time.perf_counter()
        yield from certified_by(certifier, paths)
        told(time.perf_counter() - began, certifier.busy)


def certified_by(certifier: Certifier, paths: Sequence[str]) -> Iterator[Row]:
    """The rows of pictures, in their order, from a model that is loaded."""
    for path, outcome in zip(paths, certifier.certify_all(paths), strict=True):
        yield row_of(path, outcome.value, outcome.error)


def certified_on_ray(
    paths: Sequence[str], settings: Mapping[str, Any], *, address: str | None, workers: int | None
) -> Iterator[Row]:
    """The rows of pictures as they come, from actors that hold a `Certifier` each.

    Ray restarts an actor that dies and repeats its block. Pictures, model and key files must be at the same
    paths on every machine.

    Args:
        paths: of the pictures.
        settings: as `Certifier` takes them; `device` says whether an actor takes a GPU.
        address: of a cluster; None: one is started on this machine.
        workers: number of actors; None: one for each GPU, or a single one on CPUs.
    """
    import ray
    from ray.data import ActorPoolStrategy

    if not ray.is_initialized():
        ray.init(address=address, log_to_driver=False, include_dashboard=False, logging_level="warning")
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0)) if settings.get("device", "auto") != "cpu" else 0
    actors = workers or max(gpus, 1)
    given = dict(settings)
    if gpus:
        share: dict[str, Any] = {"num_gpus": 1, "num_cpus": 1}
    else:
        cpus = max(int(resources.get("CPU", 1)) // actors, 1)
        share = {"num_cpus": cpus}
        given["threads"] = given.get("threads") or cpus
    ray.data.DataContext.get_current().enable_progress_bars = False
    block = max(min(_BLOCK, len(paths) // (_BLOCKS * actors)), 1)
    blocks = -(-len(paths) // block)
    rows = ray.data.from_items([{"path": path} for path in paths], override_num_blocks=blocks).map_batches(
        _Worker,
        fn_constructor_args=(given,),
        batch_size=block,
        compute=ActorPoolStrategy(size=actors),
        **share,
    )
    for batch in rows.iter_batches(batch_size=None, batch_format="pyarrow"):
        yield from cast(list[Row], batch.to_pylist())


class _Worker:
    """Holds a model, and certifies blocks of pictures."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._certifier = Certifier(**settings)

    def __call__(self, block: dict[str, npt.NDArray[np.str_]]) -> Any:
        from smoothgate.datasets.rows import table

        return table(list(certified_by(self._certifier, [str(path) for path in block["path"]])))
