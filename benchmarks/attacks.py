"""Attacks beside those of torchattacks, Foolbox and ART, in one process, on one network, in turn.

    python benchmarks/attacks.py [speed|strength|vector|all] [--rounds 5]

`speed`: seconds for the same attack at the same success: PGD-40 on 1,000 digits, 10 steps on a policy's network.
`strength`: success at equal queries (Square, HopSkipJump), median distance (DeepFool, Carlini-Wagner).
`vector`: evaluating an agent under attack in 64 environments together, and one at a time.

The peers go into an environment of their own, or beside this one:

    pip install --target peers --no-deps torchattacks foolbox eagerpy adversarial-robustness-toolbox GitPython gitdb \
        smmap six tqdm
    PYTHONPATH=peers python benchmarks/attacks.py

Results go into `benchmarks/results/attacks-PART.json` and `docs/benchmarks.md`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from publishing import ROOT, Measurement, Row, publish, ratio, report, spread
from torch import nn

import rltool
from rltool.agents import PPO
from rltool.agents.recording import record
from rltool.attacks import PGD, CarliniWagner, DeepFool, HopSkipJump, PerturbedVectorEnv, Square, Victim
from rltool.data import load_dataset

EPSILON, STEPS = 0.2, 40  # Of PGD on digits.
Attacked = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # From inputs and labels to attacked inputs.


def digits_cnn(seed: int) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """The cnn of `rltool train classifier digits --backbone cnn`, and 1,000 digits with their labels."""
    with tempfile.TemporaryDirectory() as folder:
        run = rltool.train("classifier", "digits", backbone="cnn", seed=seed, run_dir=folder)
        net = run.agent.model.eval()
    data = load_dataset("digits")
    x = torch.from_numpy(np.concatenate([data.test.x, data.train.x])[:1_000])
    y = torch.from_numpy(np.concatenate([data.test.y, data.train.y])[:1_000])
    return net, x, y


def balancing_policy() -> tuple[nn.Module, torch.Tensor, Victim]:
    """A PPO agent of CartPole that sees what torchattacks keeps inputs to, [0, 1].

    Returns:
        Its network, `(B, 4)` to `(B, 2)`, 64 observations, and the victim that rltool makes of its policy.
    """
    agent = PPO("CartPole-v1", num_envs=16, num_steps=64, learning_rate=1e-3, seed=0).learn(60_000)
    seen = np.asarray(record(agent, "CartPole-v1", 4).observations, dtype=np.float32)
    x = torch.from_numpy(seen[np.linspace(0, len(seen) - 1, 64).astype(int)])
    low, width = x.amin(0), x.amax(0) - x.amin(0)
    layers = [*agent.policy.backbone.layers, agent.policy.action_head.linear]  # type: ignore[misc]
    with torch.no_grad():
        layers[0].bias += layers[0].weight @ low
        layers[0].weight *= width
    net = nn.Sequential(*layers).eval()
    inputs = ((x - low) / width).clamp(0, 1)
    victim = Victim(Victim.from_agent(agent).module, (0, 1))
    assert torch.allclose(net(inputs), victim.logits(inputs), atol=1e-5)
    return net, inputs, victim


def art_classifier(net: nn.Module, x: torch.Tensor, classes: int, bounds: tuple[float, float]) -> Any:
    """A network as ART wants it."""
    from art.estimators.classification import PyTorchClassifier

    shape = tuple(x.shape[1:])
    return PyTorchClassifier(net, nn.CrossEntropyLoss(), shape, classes, clip_values=bounds, device_type="cpu")


def pgd(
    net: nn.Module, x: torch.Tensor, classes: int, epsilon: float, steps: int, victim: Victim
) -> dict[str, Attacked]:
    """PGD in the maximum norm with a random start, as each library has it."""
    import foolbox
    import torchattacks
    from art.attacks.evasion import ProjectedGradientDescent

    size, bounds = 2.5 * epsilon / steps, (0.0, 1.0)
    textbook = PGD(epsilon=epsilon, steps=steps, keep="last", skip_broken=False)
    ours, theirs = PGD(epsilon=epsilon, steps=steps), torchattacks.PGD(net, epsilon, size, steps)
    model, attack = foolbox.PyTorchModel(net, bounds=bounds), foolbox.attacks.LinfPGD(abs_stepsize=size, steps=steps)
    wrapped = art_classifier(net, x, classes, bounds)
    other = ProjectedGradientDescent(
        wrapped, eps=epsilon, eps_step=size, max_iter=steps, num_random_init=1, batch_size=len(x), verbose=False
    )
    return {
        "rltool": lambda x, y: ours(victim, x, y).x_adv,
        "textbook": lambda x, y: textbook(victim, x, y).x_adv,
        "torchattacks": lambda x, y: theirs(x, y),
        "foolbox": lambda x, y: attack(model, x, y, epsilons=epsilon)[1],
        "art": lambda x, y: torch.from_numpy(other.generate(x.numpy(), y.numpy())),
    }


def timed(
    attacks: dict[str, Attacked], net: nn.Module, x: torch.Tensor, y: torch.Tensor, rounds: int, repeats: int = 1
) -> dict[str, list[Measurement]]:
    """Seconds of each attack in turn, after a first call that is not counted, and the accuracy that it leaves."""
    measured: dict[str, list[Measurement]] = {name: [] for name in attacks}
    for number in range(rounds + 1):
        for name, attack in attacks.items():
            start = time.perf_counter()
            for _ in range(repeats):
                x_adv = attack(x, y)
            seconds = (time.perf_counter() - start) / repeats
            with torch.no_grad():
                left = float((net(x_adv).argmax(1) == y).float().mean())
            if number:
                measured[name].append({"figure": seconds, "accuracy": left})
    return measured


def speed(args: argparse.Namespace) -> Iterator[Row]:
    """The same attack, the same network, the same inputs."""
    net, x, y = digits_cnn(0)
    policy, observations, agent = balancing_policy()
    chosen = policy(observations).argmax(1)
    cases = [(f"PGD-{STEPS}, 1,000 digits, cnn", net, Victim(net, (0, 1)), x, y, 10, EPSILON, STEPS, 1)] + [
        (f"PGD-10, 64 observations, 64-64 policy, epsilon {e}", policy, agent, observations, chosen, 2, e, 10, 50)
        for e in (0.05, 0.1, 0.2)
    ]
    for title, module, victim, inputs, labels, classes, epsilon, steps, repeats in cases:
        attacks = pgd(module, inputs, classes, epsilon, steps, victim)
        measured = timed(attacks, module, inputs, labels, args.rounds, repeats)
        cells = {
            f"{name} [ms]": spread([{"figure": 1e3 * m["figure"]} for m in ms], 1) for name, ms in measured.items()
        }
        cells |= {
            f"{name} / rltool": ratio(measured[name], measured["rltool"]) for name in measured if name != "rltool"
        }
        cells["torchattacks / textbook"] = ratio(measured["torchattacks"], measured["textbook"])
        cells["accuracy left"] = ", ".join(f"{name} {ms[0]['accuracy']:.3f}" for name, ms in measured.items())
        yield title, measured, cells


def strength(args: argparse.Namespace) -> Iterator[Row]:
    """What attacks reach, where they differ in more than speed."""
    import foolbox
    import torchattacks
    from art.attacks.evasion import HopSkipJump as ArtHopSkipJump
    from art.attacks.evasion import SquareAttack

    net, x, y = digits_cnn(0)
    with torch.no_grad():
        right = net(x).argmax(1) == y
    x, y = x[right][:200], y[right][:200]
    victim, model = Victim(net, (0, 1)), foolbox.PyTorchModel(net, bounds=(0, 1))
    wrapped = art_classifier(net, x, 10, (0.0, 1.0))

    def success(x_adv: torch.Tensor) -> list[Measurement]:
        with torch.no_grad():
            broken = net(x_adv).argmax(1) != y
        assert float((x_adv - x).abs().max()) <= 0.1 + 1e-5
        return [{"figure": float(broken.float().mean())}]

    def distance(x_adv: torch.Tensor) -> list[Measurement]:
        with torch.no_grad():
            broken = net(x_adv).argmax(1) != y
        far = (x_adv - x).flatten(1).norm(dim=1)
        far[~broken] = torch.inf
        return [{"figure": float(far.median()), "success": float(broken.float().mean())}]

    queries = 500
    measured = {
        "rltool": success(Square(epsilon=0.1, queries=queries)(victim, x, y).x_adv),
        "torchattacks": success(torchattacks.Square(net, eps=0.1, n_queries=queries, loss="margin")(x, y)),
        "art": success(
            torch.from_numpy(
                SquareAttack(wrapped, eps=0.1, max_iter=queries, batch_size=len(x), verbose=False).generate(
                    x.numpy(), y.numpy()
                )
            )
        ),
    }
    yield f"Square, {queries} queries, epsilon 0.1: success", measured, _cells(measured)

    measured = {
        "rltool": distance(DeepFool()(victim, x, y).x_adv),
        "torchattacks": distance(torchattacks.DeepFool(net, steps=50, overshoot=0.02)(x, y)),
        "foolbox": distance(foolbox.attacks.L2DeepFoolAttack(steps=50, overshoot=0.02)(model, x, y, epsilons=None)[1]),
    }
    yield "DeepFool: median distance in l2", measured, _cells(measured)
    measured = {
        "rltool": distance(CarliniWagner()(victim, x, y).x_adv),
        "torchattacks": distance(torchattacks.CW(net, c=1, steps=1_000, lr=0.01)(x, y)),
        "foolbox": distance(
            foolbox.attacks.L2CarliniWagnerAttack(binary_search_steps=5, steps=200)(model, x, y, epsilons=None)[1]
        ),
    }
    yield "Carlini-Wagner: median distance in l2", measured, _cells(measured)

    some = slice(0, 50)
    x, y = x[some], y[some]
    counted = Counted(net)
    art = ArtHopSkipJump(
        art_classifier(counted, x, 10, (0.0, 1.0)),
        norm=2,
        max_iter=8,
        max_eval=100,
        init_eval=10,
        init_size=50,
        verbose=False,
    )
    theirs = torch.from_numpy(art.generate(x.numpy(), y.numpy()))
    budget = counted.count // len(x)
    measured = {
        "rltool": distance(HopSkipJump(norm="l2", queries=budget)(victim, x, y).x_adv),
        "art": distance(theirs),
    }
    yield f"HopSkipJump, {budget} queries on average: median distance in l2", measured, _cells(measured)


class Counted(nn.Module):
    """A network that counts what it is shown."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.count = net, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count += len(x)
        return self.net(x)


def _cells(measured: dict[str, list[Measurement]]) -> dict[str, str]:
    libraries = ("rltool", "torchattacks", "foolbox", "art")
    return {name: f"{measured[name][0]['figure']:.3f}" if name in measured else "–" for name in libraries}


def vector(args: argparse.Namespace) -> Iterator[Row]:
    """The same 64 episodes under PGD-10, in 64 environments together and in one after another."""
    with tempfile.TemporaryDirectory() as folder:
        agent = rltool.train("ppo", "CartPole-v1", run_dir=folder).agent
    attack = PGD(epsilon=0.2, steps=10, loss="margin")
    measured: dict[str, list[Measurement]] = {"64 environments": [], "one environment": []}
    for seed in range(min(args.rounds, 3)):
        for name, num_envs in (("64 environments", 64), ("one environment", 1)):
            envs = PerturbedVectorEnv(rltool.make_vector_env("CartPole-v1", num_envs, seed=seed), agent, attack)
            start = time.perf_counter()
            played = rltool.evaluate(agent, envs, 64, seed)
            measured[name].append({"figure": (time.perf_counter() - start) / sum(played.lengths) * 1e6})
    cells = {f"{name} [µs a timestep]": spread(each) for name, each in measured.items()}
    cells["one / 64"] = ratio(measured["one environment"], measured["64 environments"])
    yield "CartPole-v1, ppo, PGD-10", measured, cells


PARTS = {"speed": speed, "strength": strength, "vector": vector}


def main() -> None:
    """Measure, publish, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", default="all", choices=[*PARTS, "all"])
    parser.add_argument("--rounds", type=int, default=5, help="how often each is timed")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "benchmarks.md")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for part in PARTS if args.part == "all" else [args.part]:
        rows = []
        for row in PARTS[part](args):
            publish(part, row, args.out, args.page, script="attacks")
            rows.append(row)
        report(part, rows)


if __name__ == "__main__":
    main()
