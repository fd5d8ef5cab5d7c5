"""What a discriminator's verdicts were worth: the same training without them.

Likelihood alone, given as many updates, may do as well; and so may a constant reward, which makes what is generated
often more frequent still. Both make samples look better as they make them more alike, and so does a lower temperature:
the third control is the first one's generator at the temperature at which the test data are as unlikely to it as they
are to the sequence GAN's (Caccia et al., "Language GANs falling short", ICLR 2020).
"""

from __future__ import annotations

from typing import Any

from rltool.agents.controls import train_control
from rltool.gan.sequence.decoding import Decoder
from rltool.training.progress import Progress
from rltool.training.run import Run

DESCRIPTIONS = {"mle": "maximum likelihood alone", "constant": "a constant reward"}
# Figures in which better is worse for the other side to have: lower, or higher.
JUDGED_BY = {"nll_oracle": -1, "grammatical": 1, "bleu": 1}
COLDEST = 0.2


def compare_with_controls(run: Run, learner: Any, progress: Progress) -> dict[str, Any] | None:
    """Measure what a run's generator makes, and train its controls in `controls/`.

    Args:
        run: The run; its training has finished.
        learner: What was trained.
        progress: Where to say what is going on.

    Returns:
        Figures for `summary.json`, those of controls as `mle_*`, `constant_*` and `cold_*`; None if the user stopped a
        control, which a resume goes on with.
    """
    figures: dict[str, Any] = learner.test()
    if not learner.config.controls or learner.config.control != "none":
        return figures
    unlikely = figures["nll_test"]
    for name, description in DESCRIPTIONS.items():
        progress.note(f"control: the same training with {description}")
        trained = train_control(run, name, control=name)
        if not trained.summary.get("finished"):
            return None
        trained.agent.dataset = learner.dataset  # There is no need to load it twice.
        figures |= {
            f"{name}_{key}": value for key, value in trained.agent.test().items() if key[:2] not in ("re", "n_")
        }
        if name == "mle":
            temperature = equally_unlikely(trained.agent, unlikely)
            cold = trained.agent.test(decoder=Decoder(temperature))
            figures |= {f"cold_{key}": value for key, value in cold.items() if key[:2] not in ("re", "n_")}
            figures["cold_temperature"] = temperature
    return figures


def equally_unlikely(learner: Any, nll: float, steps: int = 8) -> float:
    """The temperature, at most 1, at which the test data have this negative log-likelihood under a generator."""
    low, high = COLDEST, 1.0
    if learner.nll(learner.dataset.test) >= nll:
        return 1.0
    for _ in range(steps):
        middle = (low + high) / 2
        if learner.nll(learner.dataset.test, middle) > nll:
            low = middle
        else:
            high = middle
    return high


def verdict(summary: dict[str, Any]) -> list[str]:
    """What a summary says of a sequence GAN and its controls, in sentences."""
    by = next((name for name in JUDGED_BY if name in summary), None)
    if by is None or "self_bleu" not in summary:
        return []

    def line(prefix: str) -> str:
        names = (by, "nll_test", "self_bleu", "bleu")
        shown = dict.fromkeys(name for name in names if f"{prefix}{name}" in summary)
        return ", ".join(f"{name} {summary[f'{prefix}{name}']:.3f}" for name in shown)

    lines = [f"generated: {line('')}", f"test data: {line('real_')}"]
    if f"mle_{by}" not in summary:
        return lines
    sides = {**DESCRIPTIONS, "cold": f"maximum likelihood at temperature {summary['cold_temperature']:.2f}"}
    lines += [f"control, {description}: {line(f'{name}_')}" for name, description in sides.items()]
    sign = JUDGED_BY[by]
    ahead = [description for name, description in sides.items() if sign * (summary[by] - summary[f"{name}_{by}"]) <= 0]
    if ahead:
        lines.append(
            f"no better in {by} than {' and '.join(ahead)}: no evidence that the discriminator taught anything"
        )
    return lines
