"""What adaptation was worth: the same training without it, and one that is told the target's labels."""

from __future__ import annotations

from typing import Any

import numpy as np

from rltool.adaptation.checks import concept_shift, describe_adversary, proxy_a_distance
from rltool.adaptation.config import AdaptationConfig
from rltool.errors import UserError
from rltool.training.progress import Progress
from rltool.training.run import Run
from rltool.training.train import resume, train

CONTROLS = {
    "source-only": "the same classifier without adaptation",
    "target-oracle": "the same classifier, told the target's labels",
}
FEWEST = 4  # Test examples of a domain: half of them are learned from, half measured on.
FIGURES = (
    *("source_accuracy", "source_accuracies", "target_accuracy"),
    *("known_accuracy", "unknown_accuracy", "h_score", "examples"),
)


def conclude(learner: Any, run: Run, progress: Progress) -> dict[str, Any] | None:
    """Measure the weights that were chosen, train the controls, and draw.

    Args:
        learner: What was trained.
        run: Its run, whose agent has the chosen weights.
        progress: Where to say what is going on.

    Returns:
        Figures for `summary.json`; None if the user stopped a control, which a resume goes on with.
    """
    result = run.agent.test()
    figures = {name: result[name] for name in FIGURES if name in result}
    distance = a_distance(run.agent)
    figures |= {} if distance is None else {"a_distance": distance}
    left_out = []
    beside = [(learner.method, run.agent)]
    for name in wanted_controls(learner):
        progress.note(f"control: {CONTROLS[name]}")
        try:
            trained = train_control(run, name)
        except UserError as error:
            left_out.append(f"the control {name} was left out: {error}")
            continue
        if not trained.summary.get("finished"):
            return None
        for figure in ("target_accuracy", "h_score"):
            if figure in trained.summary:
                figures[f"{name.replace('-', '_')}_{figure.removeprefix('target_')}"] = trained.summary[figure]
        if name == "source-only":
            trained.agent.domains = learner.domains
            beside.insert(0, (name, trained.agent))
            distance = a_distance(trained.agent)
            figures |= {} if distance is None else {"a_distance_before": distance}
    last = {name: float(value) for name, value in learner.last_figures.items() if name == "domain_accuracy"}
    averaged = [row["train/domain_accuracy"] for row in run.metrics[-5:] if "train/domain_accuracy" in row]
    if averaged:
        last["domain_accuracy"] = float(np.mean(averaged))
    figures |= last
    figures["notes"] = [*left_out, *learner.sentences(result), *concept_shift(figures), *describe_adversary(figures)]
    draw(learner, run, beside, result)
    return figures


def wanted_controls(learner: Any) -> list[str]:
    """Names of the controls of a run."""
    if not learner.config.controls or learner.method in CONTROLS:
        return []
    return [name for name in CONTROLS if name == "source-only" or learner.domains.labeled]


def a_distance(learner: Any) -> float | None:
    """How far the two domains are from each other in a learner's features, on test examples; None of too few."""
    source, target = (learner._tensors(part.test)[0] for part in (learner.domains.source, learner.domains.target))
    if min(len(source), len(target)) < FEWEST:
        return None
    return proxy_a_distance(learner.embed_source(source).cpu().numpy(), learner.embed(target).cpu().numpy())


def draw(learner: Any, run: Run, beside: list[tuple[str, Any]], result: dict[str, Any]) -> None:
    """Pictures into the run's folder."""
    from rltool.adaptation import pictures
    from rltool.training.plotting import draw_confusion

    pictures.draw_features(beside, run.path / "features.png")
    pictures.draw_adversary(run)
    shape = learner.domains.target.train.x.shape[1:]
    if shape == (2,):
        pictures.draw_boundary(beside, run.path / "boundary.png")
    elif len(shape) == 3:
        pictures.draw_domains(learner, run.path / "domains.png")
    if "confusion" in result:
        draw_confusion(run, np.array(result["confusion"]), list(result["predicted"]))


def train_control(run: Run, name: str) -> Run:
    """Train a control with the run's own options, or go on with it."""
    folder = run.path / "controls"
    if (folder / name / "config.json").exists():
        return resume(folder / name)
    own = {key: value for key, value in run.config["config"].items() if key in AdaptationConfig.model_fields}
    options = run.config["run"] | own
    options |= {"run_dir": str(folder), "name": name, "controls": False, "preset": "none"}
    options["select"] = "risk" if options["select"] != "last" else "last"
    return train(name, run.data, **{key: value for key, value in options.items() if value is not None})
