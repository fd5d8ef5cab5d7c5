"""What adaptation was worth: the same training without it, and one that is told the target's labels."""

from __future__ import annotations

from typing import Any

from rltool.adaptation.config import AdaptationConfig
from rltool.training.progress import Progress
from rltool.training.run import Run
from rltool.training.train import resume, train

CONTROLS = {
    "source-only": "the same classifier without adaptation",
    "target-oracle": "the same classifier, told the target's labels",
}


def conclude(learner: Any, run: Run, progress: Progress) -> dict[str, Any] | None:
    """Figures of a finished run for `summary.json`; None if the user stopped a control, which a resume goes on with."""
    result = run.agent.test()
    figures = {name: result[name] for name in ("source_accuracy", "target_accuracy") if name in result}
    figures["notes"] = learner.sentences(result)
    if not learner.config.controls or learner.method in CONTROLS:
        return figures
    for name in CONTROLS:
        if name == "target-oracle" and not learner.domains.labeled:
            continue
        progress.note(f"control: {CONTROLS[name]}")
        trained = train_control(run, name)
        if not trained.summary.get("finished"):
            return None
        if learner.domains.labeled:
            figures[f"{name.replace('-', '_')}_accuracy"] = trained.summary["target_accuracy"]
    return figures


def train_control(run: Run, name: str) -> Run:
    """Train a control with the run's own options, or go on with it."""
    folder = run.path / "controls"
    if (folder / name / "config.json").exists():
        return resume(folder / name)
    own = {key: value for key, value in run.config["config"].items() if key in AdaptationConfig.model_fields}
    options = run.config["run"] | own
    options |= {"run_dir": str(folder), "name": name, "select": "risk", "controls": False, "preset": "none"}
    return train(name, run.data, **{key: value for key, value in options.items() if value is not None})
