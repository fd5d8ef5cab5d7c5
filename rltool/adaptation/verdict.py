"""What the figures of an adaptation say, in sentences; free of torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

UNKNOWN = "unknown"  # What the target's classes are called that no source has.
COLLAPSED = 0.5  # Share of the classes but one, counted by how evenly they are predicted, below which it is one.
CERTAIN = 1.96  # Standard errors: what 95% of chance differences stay within.


def verdict(summary: Mapping[str, Any]) -> list[str]:
    """What the summary of a run says of its adaptation; nothing for other methods."""
    if "source_accuracy" not in summary:
        return []
    lines = [compare(summary)] if "target_accuracy" in summary else ["the target has no labels to measure by"]
    return lines + list(summary.get("notes", []))


def compare(summary: Mapping[str, Any]) -> str:
    """The accuracy in the target, beside that without adaptation and that with the target's labels."""
    is_open = "h_score" in summary
    figure = "h_score" if is_open else "accuracy"
    target = summary["h_score" if is_open else "target_accuracy"]
    text = f"accuracy in the target {target:.1%}, in the source {summary['source_accuracy']:.1%}"
    if is_open:
        text = f"H-score in the target {target:.1%} (known classes {summary['known_accuracy']:.1%}, "
        text += f"unknown ones {summary['unknown_accuracy']:.1%})"
    if "source_accuracies" in summary:
        text += f" ({', '.join(f'{name} {value:.1%}' for name, value in summary['source_accuracies'].items())})"
    without, oracle = summary.get(f"source_only_{figure}"), summary.get(f"target_oracle_{figure}")
    if without is None or oracle is None:
        return text
    text += f"; without adaptation {without:.1%}, with the target's labels {oracle:.1%}: "
    chance = chance_difference(target, without, summary["examples"])
    if target < without - chance:
        return text + "negative transfer, adapting did harm; use source-only, or another method"
    if target <= without + chance:
        return text + f"adapting changed no more than chance does between {summary['examples']:,} examples"
    if oracle <= without:
        return text + "adapting helped, beyond what the target's own labels teach"
    return text + f"adapting closed {min(1.0, (target - without) / (oracle - without)):.0%} of the gap"


def compare_seeds(summaries: Sequence[Mapping[str, Any]]) -> tuple[dict[str, float], list[str]]:
    """The same over runs that differ in their seed: means by name of a figure, and sentences.

    What adapting was worth is the mean of the differences of each run and its own control, with an interval of 95%.
    """
    from rltool.training.statistics import bootstrap_interval

    if not summaries or not all("source_accuracy" in each for each in summaries):
        return {}, []
    figure = "h_score" if all("h_score" in each for each in summaries) else "accuracy"
    target, without = "h_score" if figure == "h_score" else "target_accuracy", f"source_only_{figure}"
    wanted = ("source_accuracy", without, f"target_oracle_{figure}")
    means = {
        name: sum(each[name] for each in summaries) / len(summaries)
        for name in wanted
        if all(name in each for each in summaries)
    }
    lines = []
    if without in means and all(target in each for each in summaries):
        differences = [each[target] - each[without] for each in summaries]
        low, high = bootstrap_interval(np.array(differences))
        changed, low, high = 100 * float(np.mean(differences)), 100 * low, 100 * high
        oracle = f"target_oracle_{figure}"
        told = f", with the target's labels {means[oracle]:.1%}" if oracle in means else ""
        harm = "; negative transfer, it did harm" if high < 0 else "" if low > 0 else "; no clear change"
        lines.append(
            f"without adaptation {means[without]:.1%}{told}: adapting changed it by {changed:+.1f} points "
            f"({low:+.1f} to {high:+.1f}){harm}"
        )
    for note in dict.fromkeys(note for each in summaries for note in each.get("notes", [])):
        count = sum(note in each.get("notes", []) for each in summaries)
        if count == len(summaries) or note.startswith(("collapse", "the target's labels")):
            lines.append(f"{count} of {len(summaries)} seeds: {note}")
    return means, lines


def chance_difference(one: float, other: float, examples: int) -> float:
    """How far two accuracies on so many examples may be apart by chance, at 95%, if each had examples of its own."""
    return CERTAIN * math.sqrt((one * (1 - one) + other * (1 - other)) / examples)


def h_score(class_accuracy: Mapping[str, float]) -> dict[str, float]:
    """Figures of a target with classes that the source lacks, which are right where they are read as unknown.

    Args:
        class_accuracy: Accuracy by name of a class; `unknown` are all that the source lacks.

    Returns:
        `known_accuracy`, the mean over classes of the source; `unknown_accuracy`; and `h_score`, the harmonic mean of
        the two, which is 0 for who never rejects and for who always does (Fu et al., ECCV 2020).
    """
    known = [value for name, value in class_accuracy.items() if name != UNKNOWN]
    a, b = float(sum(known) / len(known)), float(class_accuracy.get(UNKNOWN, 0.0))
    return {"known_accuracy": a, "unknown_accuracy": b, "h_score": 2 * a * b / (a + b) if a + b else 0.0}


def effective_classes(shares: Mapping[str, float]) -> float:
    """How many classes are predicted, counted by the exponential of their entropy."""
    return math.exp(-sum(share * math.log(share) for share in shares.values() if share > 0))


def collapse(shares: Mapping[str, float], classes: float | None = None) -> list[str]:
    """Whether the target is read as few of its classes, in a sentence.

    Args:
        shares: How much of the target is read as each class.
        classes: How many there should be; by default all.
    """
    expected = float(len(shares)) if classes is None else classes
    if effective_classes(shares) - 1 >= COLLAPSED * (expected - 1):  # Of two classes, one would be half as many.
        return []
    most = max(shares, key=lambda name: shares[name])
    return [
        f"collapse: {shares[most]:.0%} of the target is read as '{most}'; if its classes are about as frequent as the "
        "source's, these predictions are worthless: lower --weight, or choose by --select bnm"
    ]
