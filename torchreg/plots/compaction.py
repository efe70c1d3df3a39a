"""What is left of each layer after a compaction."""

from collections.abc import Mapping

from matplotlib.figure import Figure

from torchreg.plots.style import INK, LOOKS, PALE, tidy


def kept_channels(layers: Mapping[str, tuple[float, float]]) -> Figure:
    """Show the channels that each layer keeps: a pale bar before, a dark one after.

    Args:
        layers: channels before and after by the name of the layer, such as the ``layers`` of a
            compaction's report. Every layer has a bar of full length, marked with its numbers.

    Raises:
        ValueError: no layer, a layer without channels, or more channels after than before.

    Example:
        >>> figure = kept_channels({"conv1": (20, 4), "conv2": (50, 50)})
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['4 of 20', '50 of 50']
    """
    if not layers:
        raise ValueError("expected at least one layer by name, found none.")
    for name, (before, after) in layers.items():
        if not 0 <= after <= before or before == 0:
            raise ValueError(f"the layer {name!r} has {after} channels of {before}.")
    figure = Figure(figsize=(6.4, 0.24 * len(layers) + 1.0), dpi=150, layout="constrained")
    axes = figure.subplots()
    places = range(len(layers))
    shares = [after / before for before, after in layers.values()]
    axes.barh(places, [1.0] * len(layers), color=PALE, height=0.72)
    axes.barh(places, shares, color=LOOKS[4].colour, height=0.72)
    for place, (before, after) in zip(places, layers.values(), strict=True):
        axes.text(1.02, place, f"{after:,.0f} of {before:,.0f}", va="center", fontsize=8, color=INK)
    axes.set_yticks(places, list(layers))
    axes.set_xlim(0, 1.2)
    axes.set_ylim(len(layers) - 0.4, -0.6)
    axes.set_xticks([0, 0.5, 1], ["0", "half", "all"])
    axes.set_xlabel("output channels kept", fontsize=10, color=INK)
    tidy(axes)
    axes.grid(visible=False)  # its lines would run through the numbers
    axes.tick_params(axis="y", labelsize=8)
    return figure
