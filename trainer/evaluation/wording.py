"""How numbers, settings and lists of names read in a report."""

from collections.abc import Iterable

_MOST_NAMES = 10


def percent(share: float) -> str:
    """A share of 0…1 in percent."""
    return f"{share:.1%}".replace("%", "\N{NARROW NO-BREAK SPACE}%")


def duration(seconds: float) -> str:
    """A time in the units that it is spoken of."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def value(setting: object) -> str:
    """A setting as it is typed after its flag; – for an empty one."""
    return (str(setting).lower() if isinstance(setting, bool) else str(setting)) or "–"


def names(classes: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    every = list(classes)
    more = (
        f"; {len(every) - _MOST_NAMES:,} more classes are not shown"
        if len(every) > _MOST_NAMES
        else ""
    )
    return ", ".join(every[:_MOST_NAMES]) + more
