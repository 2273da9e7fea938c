"""What Prometheus would read in the text of a metrics route."""


def total(text: str, start: str) -> float:
    """The sum of the series whose line starts so: a family's name, with or without labels.

    Raises:
        AssertionError: the text declares no such family, as where it is not metrics at all.
    """
    lines = text.splitlines()
    family = start.partition("{")[0]
    declared = (line.split()[2] for line in lines if line.startswith("# TYPE "))
    assert any(family.startswith(name) for name in declared), f"{family} is not in {text[:200]!r}"
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(start))
