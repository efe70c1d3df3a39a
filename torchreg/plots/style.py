"""One look for every picture.

The colours are those of Okabe and Ito (2008), which stay apart under every common colour
blindness.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor


class Look(NamedTuple):
    """How one series is drawn."""

    colour: str
    marker: str
    line: Any


LOOKS = (
    Look("#555555", "o", "-"),
    Look("#E69F00", "s", (0, (6, 2))),
    Look("#CC79A7", "^", (0, (4, 2, 1, 2))),
    Look("#009E73", "v", (0, (1, 1.2))),
    Look("#0072B2", "D", "-"),
    Look("#D55E00", "P", (0, (6, 2))),
    Look("#56B4E9", "X", "-"),
    Look("#000000", "h", (0, (1, 1.2))),
)
INK = "#333333"
PALE = "#E4E4E4"


def check(series: Mapping[str, Any]) -> None:
    """Raise unless there are series, none empty, and no more than can be told apart."""
    if not series:
        raise ValueError("expected at least one series by name, found none.")
    if len(series) > len(LOOKS):
        raise ValueError(
            f"at most {len(LOOKS)} series can be told apart in one picture, found {len(series)}."
        )
    for name, one in series.items():
        if (one.numel() if isinstance(one, Tensor) else len(one)) == 0:
            raise ValueError(f"the series {name!r} is empty.")


def tidy(axes: Any) -> None:
    """Leave out what carries no information: the box, the dark grid."""
    axes.grid(True, which="major", color=PALE, lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9, colors=INK)
