"""What demonstrations were worth: the same training without them.

A reward that is the same for every step can still teach to survive, or to finish, wherever an episode's length gives
the answer away. A score means that the demonstrations were understood only as far as it is above these controls'.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from rltool.agents.evaluation import Predictor, evaluate, for_evaluation
from rltool.agents.recording import RandomAgent
from rltool.envs.demonstrations import Demonstrations
from rltool.training.progress import Progress
from rltool.training.run import Run
from rltool.training.train import resume, train

EPISODES = 50  # That a score is the mean of.
Spoiled = Literal["shuffled", "random"]


def compare_with_controls(
    run: Run, demos: Demonstrations, progress: Progress, spoiled: Spoiled = "shuffled"
) -> dict[str, Any] | None:
    """Score a run that learned from demonstrations, and train its controls in `controls/`.

    Scores are (return - random) / (demonstrator - random), or plain returns where the demonstrations hold no rewards.

    Args:
        run: The run; its training has finished.
        demos: What it learned from.
        progress: Where to say what is going on.
        spoiled: Which demonstrations show nothing of what the reward reads.

    Returns:
        Figures for `summary.json`; None if the user stopped a control, which a resume goes on with.
    """
    env_kwargs = for_evaluation(run.options.env_kwargs)

    def play(agent: Predictor) -> tuple[float, float]:
        result = evaluate(agent, run.data, EPISODES, seed=run.options.seed, env_kwargs=env_kwargs)
        return result.mean_return, result.mean_length

    agent = run.agent
    random, random_length = play(RandomAgent(agent.action_space, run.options.seed))
    demonstrator, length = float(np.mean(demos.returns)), float(demos.lengths.mean())
    known = np.isfinite(demonstrator) and demonstrator != random

    def score(result: float) -> float:
        return (result - random) / (demonstrator - random) if known else result

    figures: dict[str, Any] = {"random_return": random, "score": score(play(agent)[0])}
    if known:
        figures["demonstrator_return"] = demonstrator
    if not run.config["config"].get("controls"):  # Only gail and airl have this option.
        return figures
    # Where demonstrations last as long as random episodes, a constant reward teaches nothing: nothing leaks.
    controls = {"constant": "survive" if length > random_length else "finish"} if length != random_length else {}
    for name, control in {**controls, "spoiled": spoiled}.items():
        progress.note(f"control: the same training with {DESCRIPTIONS[control]}")
        trained = train_control(run, name, demos_control=control)
        if not trained.summary.get("finished"):
            return None
        figures[f"{name}_score"] = score(play(trained.agent)[0])
    figures |= {"leak": controls.get("constant", "none"), "spoiled": spoiled}
    return figures


DESCRIPTIONS = {
    "survive": "a reward of 1 for every step",
    "finish": "a reward of -1 for every step",
    "shuffled": "shuffled demonstrations",
    "random": "a random agent's episodes as demonstrations",
}


def train_control(run: Run, name: str, **changes: Any) -> Run:
    """Train a control with the run's own options but for some, or go on with it."""
    folder = run.path / "controls"
    if (folder / name / "config.json").exists():
        return resume(folder / name)
    options = run.config["run"] | run.config["config"]
    options |= {"run_dir": str(folder), "name": name, "controls": False, "preset": "none", **changes}
    return train(run.method, run.data, **{k: v for k, v in options.items() if v is not None})


def verdict(summary: dict[str, Any]) -> list[str]:
    """What a summary with scores says, in sentences."""
    if "score" not in summary:
        return []
    if "demonstrator_return" not in summary:
        return ["the demonstrations hold no rewards: there is no score between random and the demonstrator"]
    lines = [
        f"score {summary['score']:.2f}, between random (0: return {summary['random_return']:.1f}) and the demonstrator "
        f"(1: return {summary['demonstrator_return']:.1f})"
    ]
    if "spoiled_score" not in summary:
        return lines
    leak = summary["leak"]
    if leak == "none":
        lines.append("episodes are as long as random ones: their length gives nothing away")
    else:
        lines.append(f"control: {summary['constant_score']:.2f} with {DESCRIPTIONS[leak]}, without any demonstration")
    lines.append(f"control: {summary['spoiled_score']:.2f} with {DESCRIPTIONS[summary['spoiled']]}")
    best = max(summary["spoiled_score"], summary.get("constant_score", 0.0))
    if best > 0.5 * max(summary["score"], 0.0):
        what = "to last long" if leak == "survive" else "to end soon" if leak == "finish" else "what the controls do"
        lines.append(
            f"most of this score does not need the demonstrations: in this environment it is enough {what}, "
            "so it is no evidence that they were understood"
        )
    return lines
