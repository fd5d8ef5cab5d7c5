"""Rules that say what looks wrong with a training, each a plain function of a case.

Limits are rules of thumb; those that a healthy training comes near were set beside runs of the presets.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import nn

from rltool.agents.case import FEWEST_EPISODES, FEWEST_ROWS, Case, Finding

Rule = Callable[[Case], Finding | None]


def late(values: np.ndarray, share: float = 0.5) -> np.ndarray:
    """The last part of a column, at least one value."""
    return values[-max(1, math.ceil(share * len(values))) :]


def ends(values: np.ndarray) -> tuple[float, float]:
    """Means of the first and of the last tenth."""
    n = max(1, len(values) // 10)
    return float(values[:n].mean()), float(values[-n:].mean())


def rises(returns: np.ndarray) -> bool:
    """Whether a learning curve ends clearly above where it began: by a twentieth of its height."""
    first, last = ends(returns)
    return last - first > 0.05 * max(abs(first), abs(last))


def switches(case: Case, **wanted: bool) -> str:
    """Flags that turn options on or off, those left out that are so already."""
    if case.played is not None and not case.played.features.size:
        wanted.pop("normalize_observations", None)  # Images and indices cannot be.
    names = [name for name, on in wanted.items() if case.config.get(name, not on) is not on]
    return "".join(f", --{'' if wanted[name] else 'no-'}{name.replace('_', '-')}" for name in names)


def _target_kl(case: Case) -> str:
    return ", --target-kl 0.02" if case.config.get("target_kl", 0) is None else ""


# The learning curve


def too_little(case: Case) -> Finding | None:
    """Too few rows or episodes for a judgement."""
    if case.episodes >= FEWEST_EPISODES and len(case.rows) >= FEWEST_ROWS:
        return None
    return Finding(
        "too-little",
        "warning",
        "there is too little to tell how training goes",
        f"{case.episodes} episodes have ended, and metrics.csv has {len(case.rows)} rows",
        "train longer (rltool resume RUN -n ...), or lower --log-freq",
    )


def never_learned(case: Case) -> Finding | None:
    """The return ends where it began, or below."""
    steps, returns = case.returns
    if not len(returns) or rises(returns) or case.solved:
        return None
    first, last = ends(returns)
    if case.threshold is not None and last >= case.threshold - 0.1 * abs(case.threshold):
        return None  # It began so near the top that it could not rise much.
    if returns.min() == returns.max():
        advice = "no episode differs from another, so there is nothing to learn from: explore more (--ent-coef, "
        advice += "--action-std gsde), give a reward on the way, or train longer"
    else:
        advice = "the tuned options (--preset), another --learning-rate (a third, or three times as much), and see "
        advice += "the other findings"
    return Finding(
        "never-learned",
        "serious",
        "the return has not risen over the whole training",
        f"{first:.4g} in the beginning, {last:.4g} at timestep {steps[-1]:,.0f}",
        advice,
    )


def dropped(case: Case) -> Finding | None:
    """The return has fallen from its best."""
    steps, returns = case.returns
    if not len(returns):
        return None
    best, last = int(returns.argmax()), ends(returns)[1]
    span = returns.max() - returns.min()
    lost = returns[best] - last
    if lost <= 0.25 * span or lost <= 0.1 * abs(returns[best]):  # The second is noise around one level.
        return None
    return Finding(
        "dropped",
        "serious" if lost > 0.5 * span else "warning",
        "the return has fallen from its best",
        f"{returns[best]:.4g} at timestep {steps[best]:,.0f}, {last:.4g} in the end",
        f"a lower --learning-rate, or let it fall (--learning-rate-schedule linear){_target_kl(case)}; "
        "nothing is lost: model.safetensors holds the best evaluated weights",
    )


def stalled(case: Case) -> Finding | None:
    """The return rose, then stayed below what counts as solved."""
    steps, returns = case.returns
    if not len(returns) or case.threshold is None or not rises(returns) or returns.max() >= case.threshold:
        return None
    half = len(returns) // 2
    reached, gain = returns[:half].max(), late(returns, 0.25).mean() - returns[:half].max()
    if gain > 0.05 * (returns.max() - returns.min()):
        return None
    return Finding(
        "stalled",
        "warning",
        "learning stands still below what counts as solved",
        f"{reached:.4g} by timestep {steps[half - 1]:,.0f}, {returns[-1]:.4g} in the end, solved at {case.threshold:g}",
        "more exploration (--ent-coef 0.01), longer rollouts (--num-steps) or more environments (--num-envs), or "
        "train longer with a schedule (--learning-rate-schedule linear)",
    )


def evaluation_differs(case: Case) -> Finding | None:
    """Evaluations, which take the most probable actions, and training, which samples them, disagree."""
    if not len(case.returns[0]):
        return None
    pairs = [
        (
            row["time/total_timesteps"],
            row["eval/mean_return"],
            row["rollout/ep_rew_mean"],
            row.get("eval/std_return", 0),
        )
        for row in case.rows
        if "eval/mean_return" in row and "rollout/ep_rew_mean" in row
    ]
    if not pairs:
        return None
    steps, evaluated, trained, deviation = pairs[-1]
    seen = np.concatenate([case.column(name)[1] for name in ("eval/mean_return", "rollout/ep_rew_mean")])
    span, gap = float(seen.max() - seen.min()), evaluated - trained
    if span <= 0.1 * np.abs(seen).max() or abs(gap) <= max(0.25 * span, deviation):
        return None
    evidence = f"evaluated {evaluated:.4g}, training {trained:.4g} at timestep {steps:,.0f}"
    if gap > 0:
        return Finding(
            "evaluation-differs",
            "note",
            "evaluations are much better than training episodes",
            evidence,
            "that is so while an agent learns fast (training is the mean of the last 100 episodes), or where sampled "
            "actions cost much: then lower --ent-coef or train longer",
        )
    return Finding(
        "evaluation-differs",
        "serious" if gap < -0.5 * span else "warning",
        "evaluations are much worse than training episodes: the most probable action is not the best one",
        evidence,
        "rltool eval RUN --stochastic; train longer or with a smaller --ent-coef, so that the policy decides",
    )


# The update


def entropy_collapsed(case: Case) -> Finding | None:
    """The policy has become all but deterministic."""
    steps, losses = case.column("train/entropy_loss")
    if len(losses) < FEWEST_ROWS or case.action_space is None:
        return None
    if isinstance(case.action_space, gym.spaces.Discrete):
        limit = 0.02 * math.log(case.action_space.n)
        most = f"of {math.log(case.action_space.n):.3g} at most"
    else:
        dimensions = math.prod(case.action_space.shape or ())
        limit = -losses[0] - 4 * dimensions  # The deviation of each action shrank to a fiftieth.
        most = f"from {-losses[0]:.3g} in the beginning"
    above = np.flatnonzero(-losses >= limit)
    start = above[-1] + 1 if len(above) else 0
    if start == len(losses):
        return None
    _, returns = case.returns
    fine = len(returns) > 0 and rises(returns) and dropped(case) is None
    return Finding(
        "entropy-collapsed",
        "note" if fine and case.solved else "warning" if fine else "serious",
        "the policy hardly explores any more: its entropy has collapsed",
        f"entropy {0 - losses[-1]:.3g} nats {most}; below {limit:.3g} since timestep {steps[start]:,.0f}",
        "a lower --learning-rate, a higher --ent-coef (0.01, say)" + _target_kl(case),
    )


def steps_too_far(case: Case) -> Finding | None:
    """PPO's updates leave the region its objective is good for."""
    steps, kl = case.column("train/approx_kl")
    _, clipped = case.column("train/clip_fraction")
    if len(kl) < FEWEST_ROWS or len(clipped) < FEWEST_ROWS:
        return None
    typical = [max(float(np.median(values)), float(np.median(late(values)))) for values in (kl, clipped)]
    serious = typical[0] > 0.3 or typical[1] > 0.6
    if not serious and typical[0] <= 0.1 and typical[1] <= 0.4:
        return None
    worst = int(kl.argmax())
    return Finding(
        "steps-too-far",
        "serious" if serious else "warning",
        "updates change the policy too much at once",
        f"approximate KL {typical[0]:.3g} (0.01 to 0.03 is usual), {typical[1]:.0%} of ratios clipped; the worst row "
        f"{kl[worst]:.3g} at timestep {steps[worst]:,.0f}",
        "a lower --learning-rate or --num-epochs, or end updates early with --target-kl 0.02",
    )


def critic_useless(case: Case) -> Finding | None:
    """The critic foresees less of the returns than their mean would."""
    _, explained = case.column("train/explained_variance")
    if len(explained) < FEWEST_ROWS or not case.has_critic:
        return None
    level = float(np.median(late(explained, 0.25)))
    if level > 0.05 or _returns_hardly_vary(case):
        return None
    learns = len(case.returns[1]) > 0 and rises(case.returns[1])
    return Finding(
        "critic-useless",
        "serious" if level <= 0 and not learns else "warning",
        "the critic foresees nothing: advantages are as noisy as returns",
        f"explained variance {level:.2g} in the last quarter (1 is perfect, 0 as good as the mean)",
        "a higher --vf-coef or --learning-rate"
        + switches(case, shared=False, normalize_returns=True, normalize_observations=True),
    )


def _returns_hardly_vary(case: Case) -> bool:
    """Whether all returns are nearly the same, as of a solved task: then there is nothing to foresee.

    A value loss is the part of the variance that was not foreseen, so the two metrics give the variance.
    """
    losses, explained = (late(case.column(f"train/{name}")[1], 0.25) for name in ("value_loss", "explained_variance"))
    if case.played is None or not len(losses) or not len(explained):
        return False
    variance = float(np.median(losses)) / max(1e-6, 1 - float(np.median(explained)))
    return math.sqrt(variance) < 0.02 * float(np.abs(case.played.returns).mean())


def values_too_large(case: Case) -> Finding | None:
    """Returns are too large for a freshly initialized critic to reach in reasonable time."""
    if case.played is None or not case.has_critic or case.config.get("normalize_returns"):
        return None
    size = float(np.sqrt(np.square(case.played.returns, dtype=np.float64).mean()))
    _, losses = case.column("train/value_loss")
    if size <= 200:
        return None
    loss = f", value loss {np.median(losses):.3g}" if len(losses) else ""
    return Finding(
        "values-too-large",
        "warning",
        "returns are large, so that the value loss drowns the policy's and the critic needs long to reach them",
        f"discounted returns are about {size:.4g} in size{loss}",
        "--normalize-returns, or divide the rewards",
    )


def gradient_clipped(case: Case) -> Finding | None:
    """Gradients grow, or are so long that only the clipping decides how far a step goes."""
    steps, norms = case.column("train/grad_norm")
    limit = case.config.get("max_grad_norm")
    if len(norms) < FEWEST_ROWS or not isinstance(limit, float):
        return None
    first, last = float(np.median(norms[: max(1, len(norms) // 4)])), float(np.median(late(norms, 0.25)))
    exploding = last > 10 * first and last > limit
    if not exploding and float(np.median(late(norms))) <= 20 * limit:
        return None
    return Finding(
        "gradient-explodes" if exploding else "gradient-clipped",
        "serious" if last > 100 * first and last > limit else "warning",
        "gradients grow without end" if exploding else "gradients are always clipped to a fraction of their length",
        f"norm {first:.3g} in the first quarter, {last:.3g} in the last (up to timestep {steps[-1]:,.0f}); "
        f"{(norms > limit).mean():.0%} of rows above the limit of {limit:g}",
        "a lower --vf-coef or --learning-rate, smaller rewards"
        + switches(case, normalize_returns=True, normalize_observations=True),
    )


# The networks and what they see


def observations_unscaled(case: Case) -> Finding | None:
    """Some features are far from mean 0 and deviation 1."""
    if case.played is None or case.config.get("normalize_observations"):
        return None
    features = case.played.features
    if not features.size:
        return None
    mean, deviation = features.mean(0), features.std(0)
    size = np.maximum(np.abs(mean), deviation)
    small = (deviation > 0) & (size < 1e-3)
    worst = int(size.argmax())
    if size[worst] <= 10 and not small.any():
        return None
    if size[worst] <= 10:
        worst = int(np.where(small, size, np.inf).argmin())
    return Finding(
        "observations-unscaled",
        "serious" if size[worst] > 100 else "warning",
        "observations are far from the scale that networks are made for (mean 0, deviation 1)",
        f"{int((size > 10).sum())} of {len(size)} features are above 10 in mean or deviation, {int(small.sum())} below "
        f"0.001; feature {worst} has mean {mean[worst]:.3g} and deviation {deviation[worst]:.3g}",
        "--normalize-observations",
    )


def units_unused(case: Case) -> Finding | None:
    """ReLU units that are never active, or tanh units that always are at their ends."""
    if case.played is None or case.policy is None:
        return None
    shares = unused_units(case.policy, *case.inputs)
    if not case.has_critic or _returns_hardly_vary(case):  # A critic that has one thing to say needs no units for it.
        shares = [each for each in shares if not each[0].startswith("value_backbone")]
    name, kind, share = max(shares, key=lambda each: each[2], default=("", "", 0.0))
    if share <= 0.5:
        return None
    dead = kind == "relu"
    return Finding(
        "units-dead" if dead else "units-saturated",
        "serious" if share > 0.9 else "warning",
        "most units of a layer are dead: they are zero for every observation" if dead
        else "most units of a layer are saturated: hardly any gradient passes them",
        f"{share:.0%} of {name} over {len(case.played.values):,} observations",
        f"a lower --learning-rate, --activation {'tanh or leaky_relu' if dead else 'relu'}"
        + switches(case, layer_norm=True, normalize_observations=True),
    )  # fmt: skip


def unused_units(policy: nn.Module, *inputs: Any) -> list[tuple[str, str, float]]:
    """For each ReLU and tanh layer its name, its kind, and the share of its units that do nothing.

    A ReLU unit (a channel, of images) does nothing if it is zero for all observations, a tanh unit if it is beyond
    0.99 for at least 95% of them.
    """
    outputs: dict[str, list[torch.Tensor]] = {}

    def watch(name: str) -> Callable[..., None]:
        def look(module: nn.Module, _: Any, output: torch.Tensor) -> None:
            units = output.movedim(1, -1) if output.ndim == 4 else output
            outputs.setdefault(name, []).append(units.reshape(-1, units.shape[-1]))

        return look

    layers = {name: module for name, module in policy.named_modules() if isinstance(module, nn.ReLU | nn.Tanh)}
    hooks = [module.register_forward_hook(watch(name)) for name, module in layers.items()]
    training = policy.training
    policy.eval()
    try:
        with torch.no_grad():
            policy(*inputs)
    finally:
        policy.train(training)
        for hook in hooks:
            hook.remove()
    found = []
    for name, parts in outputs.items():
        units = torch.cat(parts)
        if isinstance(layers[name], nn.ReLU):
            found.append((name, "relu", float((units <= 0).all(0).float().mean())))
        else:
            at_ends = (units.abs() > 0.99).float().mean(0)
            found.append((name, "tanh", float((at_ends >= 0.95).float().mean())))
    return found


# The environment


def time_limits(case: Case) -> Finding | None:
    """Episodes that are cut, that end suspiciously, or that do not end."""
    played = case.played
    if played is None:
        return None
    episodes, cut = len(played.lengths), len(played.values_at_truncation)
    unfinished = episodes - cut - played.terminated
    if unfinished:
        return Finding(
            "episodes-endless",
            "warning",
            "episodes hardly end: returns of training come late or never",
            f"{unfinished} of {episodes} episodes had not ended after {max(played.lengths):,} timesteps",
            "give the environment a time limit: --env-arg max_episode_steps=1000",
        )
    if cut == 0:
        if episodes < 3 or len(set(played.lengths)) > 1 or played.lengths[0] < 2:
            return None
        return Finding(
            "time-limit-as-end",
            "warning",
            "all episodes end for good after the same number of timesteps, as if a time limit were reported as an end",
            f"{episodes} episodes of {played.lengths[0]} timesteps, all terminated, none truncated",
            "if it is a time limit, let the environment return truncated instead of terminated, so that the future "
            "still counts; if it is part of the task, show the agent the time that is left",
        )
    if not case.has_critic:
        return Finding(
            "time-limit-cuts",
            "note",
            "episodes are cut by the time limit, and what would have come after it counts nothing here",
            f"{cut} of {episodes} episodes were truncated",
            "take a2c or ppo, whose critic stands for the rest, or a longer limit",
        )
    typical, at_cut = float(np.median(played.values)), float(np.median(played.values_at_truncation))
    leaking = abs(at_cut) < 0.25 * abs(typical)
    return Finding(
        "time-limit-leaks" if leaking else "time-limit-cuts",
        "warning" if leaking else "note",
        "the critic expects the future to end at the time limit" if leaking
        else "episodes are cut by the time limit; the critic stands for the rest",
        f"{cut} of {episodes} episodes were truncated; the critic expects {at_cut:.3g} there, {typical:.3g} typically",
        "hide the time from the observation, or make the limit part of the task (terminated)" if leaking
        else "nothing: that is as it should be",
    )  # fmt: skip


RULES: list[Rule] = [
    too_little,
    never_learned,
    dropped,
    stalled,
    entropy_collapsed,
    steps_too_far,
    critic_useless,
    values_too_large,
    gradient_clipped,
    observations_unscaled,
    units_unused,
    time_limits,
    evaluation_differs,
]
