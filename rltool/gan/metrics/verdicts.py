"""What the figures say, in words: collapsed, dropping modes, copying, or no sign of any."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from rltool.gan.metrics.sums import Estimate

FEW = 100  # Different samples below which there is next to no variety.
LITTLE = 0.01  # Of the different examples that the data have: as many samples are little variety.
NAMED = 10  # Missing modes that a sentence names.


def judge(
    figures: Mapping[str, Estimate],
    held_out: Mapping[str, float],
    shares: np.ndarray | None = None,
    missing: Sequence[str] = (),
    support: tuple[float, float] | None = None,
) -> tuple[str, ...]:
    """Say what is wrong with samples.

    Args:
        figures: Estimates by name: `high_quality`, `modes`, `precision`, `coverage`, `memorized`, as far as there are.
        held_out: The same of held-out real examples.
        shares: Share of each mode among good samples `(k,)`.
        missing: Names of the modes that were not found.
        support: How many different samples, and real examples, there seem to be.
    """
    value = {name: each.value for name, each in figures.items()}

    def below(name: str, part: float) -> bool:
        return name in value and name in held_out and value[name] < part * held_out[name]

    sentences = []
    unlike = next((name for name in ("high_quality", "precision") if below(name, 0.5)), None)
    if unlike is not None:
        sentences.append(
            f"unlike the data: {unlike.replace('_', ' ')} is {value[unlike]:.2f}, and that of held-out examples "
            f"{held_out[unlike]:.2f}; train longer, or look at the samples, before you count modes"
        )
    remedy = "try wgan-gp, --pack 2 or more, or a smaller learning rate"
    effective = math.inf if shares is None else float(np.exp(-(shares * np.log(shares.clip(1e-300))).sum()))
    collapsed = shares is not None and effective <= max(1.5, len(shares) / 4)
    if collapsed and shares is not None:
        sentences.append(
            f"mode collapse: good samples are spread as if there were {effective:.1f} of the {len(shares)} modes; "
            + remedy
        )
    elif support is not None and support[0] < min(FEW, 0.05 * support[1]):
        sentences.append(
            f"mode collapse: about {support[0]:,.0f} different samples, where the data have {support[1]:,.0f} or more; "
            + remedy
        )
    elif support is not None and support[0] < LITTLE * support[1]:
        sentences.append(
            f"little variety: about {support[0]:,.0f} different samples, where the data have {support[1]:,.0f} or more"
        )
    if missing and shares is not None and not collapsed and not below("high_quality", 0.1):
        named = ", ".join(missing[:NAMED]) + (", ..." if len(missing) > NAMED else "")
        sentences.append(f"mode dropping: {len(shares) - len(missing)} of {len(shares)} modes found, without {named}")
    elif below("coverage", 0.5) and not sentences:
        sentences.append(
            f"mode dropping: samples come near {value['coverage']:.0%} of the real examples, "
            f"and held-out examples near {held_out['coverage']:.0%}"
        )
    copied = figures.get("memorized")
    if copied is not None and copied.low > 0.05:
        sentences.append(f"memorization: about {copied.value:.0%} of the samples are copies of training examples")
    return tuple(sentences) or ("no sign of collapse, dropped modes or copying",)
