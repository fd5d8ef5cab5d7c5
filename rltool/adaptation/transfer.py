"""Adapting a trained policy to another look of its environment, `rltool adapt RUN --to ENV~shift`.

No reward of the target is used, only what is seen there. In both, actions are at first drawn at random, so that both
visit alike. First a map of colors is sought behind which the policy's features of the target cannot be told
from those of the source. It has few weights, and so leaves no room for a match that mixes up what is seen. Colors of
the target are first given the mean and covariance of the source's, which leaves a rotation or reflection open: the
search starts from the best of many, since the way from one to another is uphill. Where features remain further apart
than `NEAR` allows, the map is not the right one, and the search begins again. The policy that looks through this map
plays in the target, and teaches one that looks at the target itself: what comes out has the form of any other policy.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from rltool.adaptation.losses import mmd
from rltool.adaptation.policies import DomainGame, Loss, centered_coral
from rltool.adaptation.policy_norms import ROUNDS, Act, adapt_norms
from rltool.agents.evaluation import Evaluation, check_spaces, evaluate, for_evaluation, with_masks
from rltool.agents.learner import Learner
from rltool.agents.policy import environment_actions
from rltool.envs import make_vector_env
from rltool.errors import UserError
from rltool.networks.backbone import evaluating
from rltool.networks.observations import channels_last, image_size, is_image
from rltool.training.optimizers import Adam
from rltool.training.run import Run, create_run
from rltool.training.statistics import bootstrap_interval

METHODS = ("dann", "coral", "mmd", "adabn")
NUM_ENVS = 16
COLORINGS, STARTS = 200, 16  # That are tried, and that a search begins with; the better half goes on, again and again.
TRIAL, SETTLING = 50, 300  # Steps: of each in a round, of the last one.
LESSONS = 1_500  # Steps of the policy that learns to do without the map.
NEAR = 3.0  # Of the right map, features are as far apart as two samples of the source; of wrong ones, 6 to 100 times.
SEARCHES = 2  # Before one is content with less.
PALETTE = 512  # Images, whose colors are compared at first.
FAINT = 1e-4  # Share of the greatest variance, below which an axis of colors is rounding.
BATCH = 128
LEARNING_RATE = 0.03  # Of the map of colors;
GENTLY = 1e-3  # and of the policy that learns to do without it, at first.


class Palette(NamedTuple):
    """Mean, principal axes (columns, the faintest first) and deviations along them of colors `(n, channels)`."""

    mean: torch.Tensor
    axes: torch.Tensor
    deviations: torch.Tensor

    @classmethod
    def of(cls, colors: torch.Tensor) -> Palette:
        """That of some colors `(..., channels)`; along axes that are but rounding, colors do not deviate."""
        colors = colors.reshape(-1, colors.shape[-1]).double()
        variances, axes = torch.linalg.eigh(torch.atleast_2d(torch.cov(colors.T)))
        variances[variances <= FAINT * variances[-1]] = 0
        return cls(colors.mean(0), axes, variances.sqrt())


class ColorMap(nn.Module):
    """Sends the colors of images through an affine map, the same for each pixel.

    Args:
        space: The space of one image.

    Attributes:
        matrix: `(channels, channels)`, at first the identity; of colors between 0 and 1.
        offset: `(channels,)`.
    """

    def __init__(self, space: gym.Space) -> None:
        super().__init__()
        self.last, channels = channels_last(space), image_size(space)[0]
        self.scale = 255.0 if space.dtype == np.uint8 else 1.0
        self.matrix = nn.Parameter(torch.eye(channels))
        self.offset = nn.Parameter(torch.zeros(channels))

    def colors(self, images: torch.Tensor) -> torch.Tensor:
        """What is mapped, `(..., channels)`."""
        x = images.float() / self.scale
        return x if self.last else x.movedim(1, -1)

    def match(self, source: Palette, target: Palette, generator: torch.Generator) -> None:
        """Become a random one of the maps that give the target's colors the mean and covariance of the source's."""
        varied = min(int(palette.deviations.count_nonzero()) for palette in (source, target))
        turn = torch.zeros_like(source.axes)
        if varied:
            drawn = torch.randn(varied, varied, generator=generator, dtype=torch.double)
            orthogonal, triangle = torch.linalg.qr(drawn)
            turn[-varied:, -varied:] = orthogonal * triangle.diagonal().sign()  # Reflections as often as rotations.
        shrink = torch.where(target.deviations > 0, 1 / target.deviations, 0)
        matrix = (source.axes * source.deviations) @ turn @ (target.axes * shrink).T
        with torch.no_grad():
            self.matrix.copy_(matrix)
            self.offset.copy_(source.mean - matrix @ target.mean)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images as the space has them, but floats."""
        x = (self.colors(images) @ self.matrix.T + self.offset) * self.scale
        return x if self.last else x.movedim(-1, 1)


@dataclass(frozen=True)
class Transfer:
    """What became of a policy in another look of its environment: returns, and what they say.

    Attributes:
        source: Where it was trained, as it was.
        zero_shot: In the target, as it was.
        adapted: In the target, adapted.
        oracle: In the target, another policy that was trained there with rewards, if there is one.
        losses: How far features were apart after each search, by mmd.
        seconds: What adapting took, without playing.
    """

    method: str
    source_env: str
    target_env: str
    source: Evaluation
    zero_shot: Evaluation
    adapted: Evaluation
    oracle: Evaluation | None = None
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def rows(self) -> dict[str, Evaluation]:
        """All evaluations there are, by name."""
        rows = {"source": self.source, "zero_shot": self.zero_shot, "adapted": self.adapted}
        return rows | ({"oracle": self.oracle} if self.oracle else {})

    def intervals(self) -> dict[str, tuple[float, float]]:
        """Bootstrap intervals of the mean returns over episodes, by name."""
        return {name: bootstrap_interval(np.array(each.returns)) for name, each in self.rows().items()}

    def verdict(self) -> str:
        """Whether adapting helped, in words."""
        intervals = self.intervals()
        before, after = intervals["zero_shot"], intervals["adapted"]
        if after[1] < before[0]:
            return "negative transfer: adapting did harm; keep the policy as it was, or try another --method"
        if after[0] <= before[1]:
            return "adapting changed nothing to speak of; try another --method, or training with rewards in the target"
        gap = self.source.mean_return - self.zero_shot.mean_return
        if gap <= 0:
            return "adapting helped, although nothing was lost without it"
        closed = (self.adapted.mean_return - self.zero_shot.mean_return) / gap
        return f"adapting won back {min(1.0, closed):.0%} of what was lost"

    def as_dict(self) -> dict[str, Any]:
        """The figures of a run's summary."""
        figures: dict[str, Any] = {f"{name}_return": each.mean_return for name, each in self.rows().items()}
        figures |= {f"{name}_interval": list(each) for name, each in self.intervals().items()}
        return {
            "adapt_method": self.method,
            "source_env": self.source_env,
            "target_env": self.target_env,
            **figures,
            "episodes": len(self.source.returns),
            "alignment_losses": self.losses,
            "adapt_seconds": round(self.seconds, 2),
            "verdict": self.verdict(),
        }


Say = Callable[[str], None]


def _silent(line: str) -> None:
    """Say nothing."""


def adapt_policy(
    agent: Learner,
    source: str,
    target: str,
    method: str = "dann",
    timesteps: int = 8_000,
    seed: int = 0,
    env_kwargs: Mapping[str, Any] | None = None,
    say: Say = _silent,
) -> list[float]:
    """Change an agent's policy so that it does in the target what it does in the source.

    Args:
        agent: Its policy is changed, its critic left as it is.
        source: Environment that it was trained in.
        target: The same, looking different.
        method: What makes features alike: "dann", "coral" or "mmd"; or "adabn", which changes nothing but the
            statistics of normalization.
        timesteps: How many are looked at, in each of the two; and again in the target, through the map. By "adabn" in
            the target alone.
        seed: Decides about everything.
        env_kwargs: Arguments of both environments' constructors.
        say: Called with a line about each thing that is done.

    Returns:
        How far features were apart after each search, by mmd whatever the method; the best search counts. By
        "adabn" nothing is searched.

    Raises:
        UserError: There is no such method, or the policy does not read color images of a known form.
    """
    if method not in METHODS:
        raise UserError(f"no method '{method}' adapts a policy; choose one of {', '.join(METHODS)}")
    kwargs = with_masks(agent, env_kwargs)
    if method == "adabn":
        say(f"looking at {timesteps:,} timesteps of {target}, as the policy plays there")

        def play_there(act: Act, k: int) -> torch.Tensor:
            return look(target, timesteps // ROUNDS, seed + k, kwargs, act).to(agent.device)

        adapt_norms(agent, play_there, np.random.default_rng(seed))
        return []
    policy, space = agent.policy, agent.observation_space
    if policy.has_memory or not is_image(space):
        raise UserError(
            "a policy is adapted afterwards where it reads images, without a memory; where an environment moves "
            "differently, train on a range of such, as: rltool train ppo CartPole-v1~gravityx0.5-2"
        )
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]), evaluating(policy):
        torch.manual_seed(seed)
        say(f"looking at {timesteps:,} timesteps of {source} and of {target}")
        seen = [look(env, timesteps, seed + k, kwargs).to(agent.device) for k, env in enumerate((source, target))]
        teacher = copy.deepcopy(policy).requires_grad_(False)
        rng = np.random.default_rng(seed)
        few = (each[:: -(-len(each) // PALETTE)].cpu() for each in seen)
        palettes = [Palette.of(ColorMap(space).colors(images)) for images in few]
        near = NEAR * apart(teacher.features, seen[0], teacher.features, seen[0])
        found: list[Search] = []
        while len(found) < SEARCHES and not (found and found[-1].apart <= near):
            maps = [ColorMap(space).to(agent.device) for _ in range(COLORINGS)]
            for colors in maps[not found :]:  # The first of all leaves colors as they are.
                colors.match(palettes[0], palettes[1], generator)
            searches = [Search(teacher.features, colors, method, seen) for colors in maps]
            found.append(narrow_down(searches, rng))
            say(f"features are {found[-1].apart:.4f} apart behind the best map of colors; {near:.4f} would be near")
        best = min(found, key=lambda each: each.apart)
        if best.apart > near:
            say("no map of colors makes the two looks alike: do not expect much")
        say("teaching the policy to do without the map")

        def wanted(images: torch.Tensor) -> torch.Tensor:
            return teacher.features(best.colors(images))

        act, to_environment = teacher.action_head.sampler(rng), environment_actions(agent.action_space)

        def play(images: np.ndarray) -> np.ndarray:
            with torch.no_grad():
                return to_environment(act(wanted(torch.from_numpy(images).to(agent.device)).cpu().numpy()))

        # Where a good policy gets to, one that draws actions at random may never be.
        played = look(target, timesteps, seed + 2, kwargs, play).to(agent.device)
        _teach(policy, wanted, torch.cat((seen[1], played)), rng)
    return [each.apart for each in found]


def look(
    env_id: str,
    timesteps: int,
    seed: int,
    env_kwargs: Mapping[str, Any],
    act: Act | None = None,
) -> torch.Tensor:
    """What is seen in an environment, `(timesteps, ...)`; without `act`, actions are drawn at random."""
    envs = make_vector_env(env_id, NUM_ENVS, seed=seed, **{"infos": False, **env_kwargs})
    try:
        seen = [envs.reset(seed=seed)[0]]
        while len(seen) * NUM_ENVS < timesteps:
            seen.append(envs.step(act(seen[-1]) if act else envs.action_space.sample())[0])
    finally:
        envs.close()
    return torch.from_numpy(np.concatenate(seen)[:timesteps])


Features = Callable[[torch.Tensor], torch.Tensor]


def _draw(seen: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    return seen[torch.from_numpy(rng.integers(len(seen), size=BATCH)).to(seen.device)]


def apart(ours: Features, source: torch.Tensor, theirs: Features, target: torch.Tensor) -> float:
    """How far features of the source and of the target are apart, by `mmd`; of always the same images."""
    rng = np.random.default_rng(0)
    with torch.no_grad():
        images = [torch.cat([_draw(each, rng) for _ in range(4)]) for each in (source, target)]
        return float(mmd(ours(images[0]), theirs(images[1])))


class Search:
    """Learns a map of colors behind which the target's features are like the source's.

    Games go in circles: what counts is the map at its best.

    Args:
        features: Of the policy, from images.
        colors: The map that it begins with, and changes.
        method: See `adapt_policy`.
        seen: Images of the source and of the target.

    Attributes:
        apart: How far apart features were, behind the map at its best.
    """

    def __init__(self, features: Features, colors: nn.Module, method: str, seen: list[torch.Tensor]) -> None:
        self.features, self.colors, self.seen = features, colors, seen
        self.apart = np.inf
        self._keep_best()
        with torch.no_grad():
            width = features(seen[0][:1]).shape[1]
        losses: dict[str, Loss] = {"coral": centered_coral, "mmd": mmd}
        self.loss = DomainGame(width, seen[0].device) if method == "dann" else losses[method]
        self.optimizer = Adam(colors, LEARNING_RATE)

    def _keep_best(self) -> None:
        now = apart(self.features, self.seen[0], lambda x: self.features(self.colors(x)), self.seen[1])
        if now < self.apart:
            self.apart, self.best = now, copy.deepcopy(self.colors.state_dict())

    def go_on(self, steps: int, rng: np.random.Generator, settle: bool = False) -> None:
        """Take steps; to settle, smaller and smaller ones."""
        for step in range(steps):
            self.optimizer.learning_rate = LEARNING_RATE * (1 - step / steps if settle else 1)
            source, target = (_draw(each, rng) for each in self.seen)
            with torch.no_grad():
                source = self.features(source)
            self.optimizer.descend(self.loss(source, self.features(self.colors(target))))
        self._keep_best()

    def go_back(self) -> None:
        """To the map at its best."""
        self.colors.load_state_dict(self.best)


def narrow_down(searches: list[Search], rng: np.random.Generator) -> Search:
    """Let the most promising searches go on, fewer and fewer of them, and the last one settle; its map at its best."""
    searches = sorted(searches, key=lambda each: each.apart)[:STARTS]
    while len(searches) > 1:
        for each in searches:
            each.go_on(TRIAL, rng)
        searches = sorted(searches, key=lambda each: each.apart)[: len(searches) // 2]
    (last,) = searches
    last.go_back()
    last.go_on(SETTLING, rng, settle=True)
    last.go_back()
    return last


def _teach(policy: Any, wanted: Features, seen: torch.Tensor, rng: np.random.Generator) -> None:
    """Let a policy's features of what is seen become those that are wanted; its heads stay."""
    optimizer = Adam(policy.backbone, GENTLY)
    for lesson in range(LESSONS):
        optimizer.learning_rate = GENTLY * (1 - lesson / LESSONS)
        x = _draw(seen, rng)
        with torch.no_grad():
            right = wanted(x)
        optimizer.descend(F.mse_loss(policy.features(x), right) / (right.var() + 1e-6))


def transfer(
    agent: Learner,
    source: str,
    target: str,
    method: str = "dann",
    timesteps: int = 8_000,
    seed: int = 0,
    episodes: int = 50,
    oracle: Any = None,
    env_kwargs: Mapping[str, Any] | None = None,
    say: Say = _silent,
) -> Transfer:
    """`adapt_policy`, and returns before and after.

    Args:
        agent: Its policy is changed, as the arguments up to `seed` say to `adapt_policy`.
        source: Environment that it was trained in.
        target: The same, looking different.
        method: "dann", "coral", "mmd" or "adabn".
        timesteps: How many are looked at, in each of the two.
        seed: Decides about everything.
        episodes: How many each return is the mean of.
        oracle: Another agent to compare with, trained in the target.
        env_kwargs: Arguments of both environments' constructors.
        say: Called with a line about each thing that is done.

    Raises:
        UserError: As `adapt_policy`; or an agent does not fit the target.
    """
    for each in (agent, *([oracle] if oracle else [])):
        check_spaces(each, target, env_kwargs)

    def play(player: Any, env: str) -> Evaluation:
        return evaluate(player, env, episodes, seed=seed + 1_000, env_kwargs=env_kwargs)

    say(f"playing {episodes:,} episodes in each of the two")
    before = play(agent, source), play(agent, target)
    start = time.perf_counter()
    losses = adapt_policy(agent, source, target, method, timesteps, seed, env_kwargs, say)
    seconds = time.perf_counter() - start
    after = play(agent, target), (play(oracle, target) if oracle else None)
    return Transfer(method, source, target, *before, *after, losses, seconds)


def adapt_run(
    run: Run,
    target: str,
    *,
    method: str = "dann",
    timesteps: int = 8_000,
    seed: int = 0,
    episodes: int = 50,
    oracle: Run | None = None,
    run_dir: str = "runs",
    name: str | None = None,
    say: Say = _silent,
) -> tuple[Run, Transfer]:
    """Adapt a run's agent, in a new run whose environment is the target.

    Args:
        run: The run; it stays as it is.
        target: Another look of its environment.
        method: "dann", "coral", "mmd" or "adabn".
        timesteps: How many are looked at, in each of the two.
        seed: Decides about everything.
        episodes: How many each return is the mean of.
        oracle: A run that was trained in the target.
        run_dir: Folder that the new run is put in.
        name: Its name; by default <method>-<environment>-<number>.
        say: Called with a line about each thing that is done.

    Returns:
        The new run, and the report, which is in its `summary.json`, too.

    Raises:
        UserError: As `transfer`; nothing was written.
    """
    # Loaded anew: the run's own agent stays as it is.
    agent, kwargs = Run(run.path).agent, for_evaluation(run.options.env_kwargs)
    other = None if oracle is None else oracle.agent
    report = transfer(agent, run.data, target, method, timesteps, seed, episodes, other, kwargs, say)
    # What goes on with the new run, with rewards, begins with the old one's policy.
    changed = {"name": name, "run_dir": run_dir, "total_timesteps": timesteps, "seed": seed}
    changed |= {"init_policy": str(run.path.resolve()), "init_backbone": None, "shaping": None, "potential": None}
    options = run.options.model_copy(update=changed)
    made = create_run(run.method, target, options, run.config["config"])
    agent.env_id = target
    agent.save(made.path / "model.safetensors")
    if is_image(agent.observation_space):
        _draw_looks(agent, (run.data, target), made.path / "looks.png", seed, kwargs)
    figures = {"method": run.method, "data": target, "finished": True, "total_timesteps": timesteps}
    mean_return = report.adapted.mean_return
    made.write_json("summary.json", {**figures, "mean_return": mean_return, **report.as_dict()})
    return made, report


def _draw_looks(agent: Learner, env_ids: tuple[str, str], path: Path, seed: int, env_kwargs: Mapping[str, Any]) -> None:
    """`looks.png`: what is seen in the source, and in the target, of the same seed."""
    from rltool.adaptation.pictures import EXAMPLES, draw_strips

    space: Any = agent.observation_space
    rows = []
    for env_id in env_ids:
        seen = look(env_id, EXAMPLES * NUM_ENVS, seed, with_masks(agent, env_kwargs)).numpy()[::NUM_ENVS]
        images = seen.transpose(0, 3, 1, 2) if channels_last(space) else seen
        low, high = float(space.low.min()), float(space.high.max())
        rows.append((env_id.partition("/")[2] or env_id, (images.astype(np.float32) - low) / (high - low)))
    draw_strips(rows, path)
