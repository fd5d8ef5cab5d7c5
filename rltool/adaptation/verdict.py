"""What the figures of an adaptation say, in sentences; free of torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

COLLAPSED = 0.5  # Share of the classes, counted by how evenly they are predicted, below which it is a collapse.
HARMED = 0.01  # Accuracy below that without adaptation, which is more than chance.


def verdict(summary: Mapping[str, Any]) -> list[str]:
    """What the summary of a run says of its adaptation; nothing for other methods."""
    if "source_accuracy" not in summary:
        return []
    lines = [compare(summary)] if "target_accuracy" in summary else ["the target has no labels to measure by"]
    return lines + list(summary.get("notes", []))


def compare(summary: Mapping[str, Any]) -> str:
    """The accuracy in the target, beside that without adaptation and that with the target's labels."""
    target = summary["target_accuracy"]
    text = f"accuracy in the target {target:.1%}, in the source {summary['source_accuracy']:.1%}"
    without, oracle = summary.get("source_only_accuracy"), summary.get("target_oracle_accuracy")
    if without is None or oracle is None:
        return text
    text += f"; without adaptation {without:.1%}, with the target's labels {oracle:.1%}: "
    if target < without - HARMED:
        return text + "negative transfer, adapting did harm; use source-only, or another method"
    if target <= without + HARMED:
        return text + "adapting changed nothing to speak of"
    if oracle <= without:
        return text + "adapting helped, beyond what the target's own labels teach"
    return text + f"adapting closed {min(1.0, (target - without) / (oracle - without)):.0%} of the gap"


def effective_classes(shares: Mapping[str, float]) -> float:
    """How many classes are predicted, counted by the exponential of their entropy."""
    return math.exp(-sum(share * math.log(share) for share in shares.values() if share > 0))


def collapse(shares: Mapping[str, float]) -> list[str]:
    """Whether the target is read as few of its classes, in a sentence.

    Args:
        shares: How much of the target is read as each class.
    """
    if effective_classes(shares) >= COLLAPSED * len(shares):
        return []
    most = max(shares, key=lambda name: shares[name])
    return [
        f"collapse: {shares[most]:.0%} of the target is read as '{most}'; if its classes are about as frequent as the "
        "source's, these predictions are worthless: lower --weight, or choose by --select bnm"
    ]
