"""Transfer: perturbations made on proxies, shown to the victim (Papernot et al., 2017; Liu et al., 2017)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar, Literal, Self

import torch
from torch import nn
from torch.nn import functional as F

from rltool.attacks.attack import Attack, Composed, Problem, check_labels, check_positive, generator
from rltool.attacks.gradient import MIFGSM
from rltool.attacks.losses import Objective
from rltool.attacks.norms import per_sample
from rltool.attacks.victim import Victim
from rltool.errors import UserError
from rltool.supervised.classifier import Classifier
from rltool.supervised.config import ClassifierConfig

EPISODES = 20  # Of an agent that a proxy is cloned from.
CLONED = 100_000  # Timesteps of these that it learns from, again and again.
BATCH = 64  # Examples in a minibatch of a proxy's training.


@dataclass(frozen=True, kw_only=True)
class Transfer(Composed):
    """Attacks proxies by white box, and shows the victim what comes out: it is asked nothing.

    `fit` trains a proxy, where none is given: on training examples with their labels, or on the victim's answers to a
    few of them alone. Proxies are attacked to the end, also where they are broken already: perturbations that stop at
    their boundary do not carry over.

    Attributes:
        attack: How the proxies are attacked.
        proxies: What is attacked in the victim's stead.
        fuse: How several proxies are one: by the mean of their logits, or of their losses (Dong et al., 2018).
        answers_only: Train the proxy on the victim's answers, not on labels.
        inputs: How many inputs of its own an attacker without labels starts from.
        rounds: How often these are doubled, by steps along the proxy's gradient of what the victim answered.
        epochs: Passes over the examples in the proxy's training.
        asked: How many answers of the victim the proxies were trained on.

    Example:
        >>> attack = Transfer(proxies=[Victim(net, (0, 1))], attack=PGD(epsilon=0.1))  # doctest: +SKIP
        >>> fooled = attack(victim, x, y).success.float().mean()  # doctest: +SKIP
    """

    learned: ClassVar[tuple[str, ...]] = ("asked",)
    inner: ClassVar[type[Attack]] = MIFGSM
    attack: Attack = field(default_factory=MIFGSM)
    proxies: Sequence[Victim] = ()
    fuse: Literal["logits", "losses"] = "logits"
    answers_only: bool = False
    inputs: int = 200
    rounds: int = 0
    epochs: int = 30
    asked: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(inputs=self.inputs, epochs=self.epochs)
        if self.rounds < 0:
            raise UserError(f"rounds must be at least 0, not {self.rounds}")
        if self.fuse not in ("logits", "losses"):
            raise UserError(f"proxies are fused by their logits or losses, not by {self.fuse!r}")

    def fit(
        self, victim: Victim, x: torch.Tensor, y: torch.Tensor | None = None, target: torch.Tensor | None = None
    ) -> Self:
        if self.proxies:
            return self
        if y is not None and not self.answers_only:
            proxy = train_proxy(x, y, classes_of(victim, x), victim, epochs=self.epochs, seed=self.seed)
            return replace(self, proxies=(proxy,))
        order = torch.randperm(len(x), generator=generator(self.seed, x.device), device=x.device)
        few = x[order[: self.inputs]]
        proxy, asked = learn_from_answers(victim, few, rounds=self.rounds, epochs=self.epochs, seed=self.seed)
        return replace(self, proxies=(proxy,), asked=self.asked + asked)

    def prepare(self, agent: Any, env_id: str, env_kwargs: Mapping[str, Any] | None = None, seed: int = 0) -> Self:
        """Clone the agent from what it was seen to do, where no proxy is given."""
        from rltool.agents.behavior_cloning import BehaviorCloning
        from rltool.agents.recording import record

        if self.proxies:
            return self
        demos = record(agent, env_id, EPISODES, seed + 1_000_003, env_kwargs=env_kwargs)
        clone = BehaviorCloning(None, demos=demos, seed=seed).learn(CLONED)
        return replace(self, proxies=(Victim.from_agent(clone),), asked=self.asked + len(demos))

    def run(self, problem: Problem) -> torch.Tensor:
        if not self.proxies:
            raise UserError(
                "transfer needs a proxy: give one, on the command line by --proxy RUN, or let fit train one"
            )
        attack = to_the_end(replace(self.attack, seed=self.seed))
        ensemble = _Ensemble(self.proxies, problem, self.fuse)
        labels = None if problem.victim.tolerance is not None else problem.y
        x_adv = attack(ensemble, problem.x, labels, problem.target).x_adv
        broken = per_sample(problem.succeeded(problem.outputs), x_adv)
        return torch.where(broken, problem.x, x_adv)


class _Ensemble(Victim):
    """Several proxies as one victim, within the bounds of the true one.

    Raises:
        UserError: A proxy is none, or gives other outputs than the victim.
    """

    def __init__(self, proxies: Sequence[Victim], problem: Problem, fuse: str) -> None:
        victim = problem.victim
        for proxy in proxies:
            if not isinstance(proxy, Victim):
                raise UserError("a proxy is a Victim: Victim(module, bounds=(0, 1)), or Victim.from_agent(agent)")
            try:
                with proxy.undisturbed():
                    given = proxy.check(victim.clip(problem.x[:1]))
            except UserError as error:
                raise UserError(f"a proxy does not stand in for this victim: {error}") from error
            if given.shape[1] != problem.outputs.shape[1] or (proxy.tolerance is None) != (victim.tolerance is None):
                kinds = [
                    f"{outputs.shape[1]} {'logits' if each.tolerance is None else 'continuous actions'}"
                    for each, outputs in ((proxy, given), (victim, problem.outputs))
                ]
                raise UserError(f"a proxy gives {kinds[0]}, the victim {kinds[1]}; take one that gives the same")
        super().__init__(
            nn.ModuleList(proxy.module for proxy in proxies if isinstance(proxy.module, nn.Module)),
            (victim.low, victim.high),
            std=victim.std,
            integers=victim.integers,
            tolerance=victim.tolerance,
        )
        self.proxies, self.fuse = proxies, fuse

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        self.n_forward += 1
        return torch.stack([proxy.logits(x) for proxy in self.proxies]).mean(0)

    def gradient(self, x: torch.Tensor, objective: Objective) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        if self.fuse == "logits":
            return super().gradient(x, objective)
        parts = [proxy.gradient(x, objective) for proxy in self.proxies]
        outputs, losses, gradient = (torch.stack(each).mean(0) for each in zip(*parts, strict=True))
        self.n_forward, self.n_backward = self.n_forward + 1, self.n_backward + 1
        return outputs, losses, gradient


def to_the_end(attack: Any) -> Any:
    """The attack without leaving alone what is broken: what only just crosses one network's boundary fools no other."""
    return replace(attack, skip_broken=False) if hasattr(attack, "skip_broken") else attack


def _chosen(y: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    return logits.gather(1, y[:, None])[:, 0]


def train_proxy(
    x: torch.Tensor,
    y: torch.Tensor,
    classes: int,
    victim: Victim,
    *,
    network: nn.Module | None = None,
    epochs: int = 30,
    seed: int = 0,
) -> Victim:
    """Train a network of one's own on labeled examples: what the victim was trained on, or what it answered.

    Args:
        x: Inputs `(n, ...)`.
        y: Labels `(n,)`.
        classes: How many there are.
        victim: Whose bounds the proxy gets; it is asked nothing.
        network: What is trained; by default a `Classifier` with the backbone that suits the inputs.
        epochs: Passes over the examples.
        seed: Of its weights and the order of the examples.

    Raises:
        UserError: There are no examples, or their labels are none of the classes.
    """
    if not len(x):
        raise UserError("a proxy needs examples to learn from")
    y = check_labels("y", y, len(x), classes)
    with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
        torch.manual_seed(seed)
        if network is None:
            network = Classifier(ClassifierConfig(), tuple(x.shape[1:]), classes).to(x.device)
            network.normalize_by(x)
        optimizer = torch.optim.Adam(network.parameters(), 1e-3)
        network.train()
        for _ in range(epochs):
            for rows in torch.randperm(len(x)).to(x.device).split(BATCH):
                optimizer.zero_grad()
                with torch.enable_grad():
                    F.cross_entropy(network(x[rows]), y[rows]).backward()
                optimizer.step()
    optimizer.zero_grad()
    network.eval()
    return Victim(network, (victim.low, victim.high))


def learn_from_answers(
    victim: Victim,
    x: torch.Tensor,
    *,
    rounds: int = 0,
    step: float = 0.1,
    network: nn.Module | None = None,
    epochs: int = 30,
    seed: int = 0,
) -> tuple[Victim, int]:
    """Train a proxy on what the victim answers, its choices alone (Papernot et al., 2017).

    Each round doubles the inputs: x + step * sign of the proxy's gradient of the class that the victim answered, where
    the two are likeliest to differ. Without rounds it is plain training on the answers.

    Args:
        victim: What is asked.
        x: The attacker's own inputs `(n, ...)`; labels are not needed.
        rounds: How often they are doubled.
        step: Length of the steps.
        network: As in `train_proxy`.
        epochs: Passes over the examples, in each round.
        seed: As there.

    Returns:
        The proxy, and how many inputs the victim was asked about.
    """

    classes = classes_of(victim, x)
    y = _answers(victim, x)
    for round_ in range(rounds + 1):
        proxy = train_proxy(x, y, classes, victim, network=network, epochs=epochs, seed=seed)
        if round_ < rounds:
            _, _, gradient = proxy.gradient(x, partial(_chosen, y))
            further = victim.clip(x + step * gradient.sign())
            x, y = torch.cat((x, further)), torch.cat((y, _answers(victim, further)))
    return proxy, len(x) + 1


def classes_of(victim: Victim, x: torch.Tensor) -> int:
    """How many classes a victim tells apart; it is shown the first of some inputs `(n, ...)`.

    Raises:
        UserError: There are no inputs, or it gives continuous actions.
    """
    if not len(x):
        raise UserError("a proxy needs examples to learn from")
    if victim.tolerance is not None:
        raise UserError("a proxy is trained to give classes; of continuous actions, give proxies that do the same")
    with victim.undisturbed():
        return victim.check(x[:1]).shape[1]


def _answers(victim: Victim, x: torch.Tensor) -> torch.Tensor:
    """The classes `(n,)` that a victim chooses for inputs."""
    with victim.undisturbed():
        return victim.check(x).argmax(1)
