"""Generators: what they find of known distributions, in how many seconds, and what an iteration costs.

    python benchmarks/gan.py [toys|images|speed|all] [--data digits FILE.npz] [--seeds 5] [--rounds 7]

`toys`: modes, high-quality share and divergence of `wgan-gp` with tuned options on 8 and on 25 Gaussians, and seconds.
`images`: FID against the distance between the halves of the training examples, through a classifier of the same data;
of digits by `wgan-gp`, of labeled images in a file by `cgan` with the options tuned for MNIST.
`speed`: an iteration (the critic's steps and the generator's) beside a bare loop of PyTorch over the same networks.

Results go into `benchmarks/results/gan-PART.json` and `docs/benchmarks.md`.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from publishing import ROOT, Measurement, Row, publish, ratio, report, spread

import rltool
from rltool.gan.config import WGANGPConfig
from rltool.gan.learner import WGANGP
from rltool.training.methods import METHODS
from rltool.training.options import resolve_options
from rltool.training.run import Run

DRAWN = 2_500


def trained(data: str, seed: int, folder: str, method: str = "wgan-gp", **options: str) -> Run:
    """A finished run; one that was stopped is not measured."""
    run = rltool.train(method, data, seed=seed, run_dir=folder, **options)
    if not run.summary["finished"]:
        raise SystemExit(1)
    return run


def toys(data: str, seeds: int) -> Row:
    """Train on points from a known mixture; 2,500 samples, a mode counts from 20 good ones, good is within 3 sd."""
    measured: list[Measurement] = []
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            run = trained(data, seed, folder)
            found = run.agent.test(DRAWN, seed=1_000)
            names = ("modes", "high_quality", "kl", "jsd")
            measured.append(
                {"figure": found["high_quality"], "seconds": run.summary["seconds"], **{n: found[n] for n in names}}
            )
            print(data, seed, measured[-1], flush=True)
    modes = found.num_modes
    cells = {
        "modes found": _cell(measured, "modes", 0) + f" of {modes}",
        "high quality": _cell(measured, "high_quality", 3),
        "KL": _cell(measured, "kl", 4),
        "seconds": _cell(measured, "seconds", 0),
        "seeds": str(seeds),
    }
    return f"{data}, wgan-gp", {"rltool": measured}, cells


def _cell(measured: list[Measurement], name: str, digits: int) -> str:
    return spread([{"figure": each[name]} for each in measured], digits)


def images(data: str, seeds: int) -> Row:
    """Train on images; as many samples as examples in half of the training part."""
    measured: list[Measurement] = []
    name = Path(data).stem
    method, preset = ("wgan-gp", "digits") if data == "digits" else ("cgan", "mnist")
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            run = trained(data, seed, folder, method, preset=preset)
            count = len(run.agent.dataset.train) // 2
            found = run.agent.test(count, seed=1_000)
            measured.append(
                {
                    "figure": found["fid"] / found.fid_floor,
                    "fid": found["fid"],
                    "floor": found.fid_floor,
                    "precision": found["precision"],
                    "recall": found["recall"],
                    **({"as_asked": found["condition_accuracy"]} if method == "cgan" else {}),
                    "n": count,
                    "seconds": run.summary["seconds"],
                }
            )
            print(data, seed, measured[-1], flush=True)
    cells = {
        "FID": _cell(measured, "fid", 3),
        "floor": f"{measured[0]['floor']:.3f}",
        "FID / floor": _cell(measured, "figure", 1),
        "precision": _cell(measured, "precision", 2),
        "recall": _cell(measured, "recall", 2),
        "as asked": _cell(measured, "as_asked", 3) if method == "cgan" else "",
        "samples": f"{measured[0]['n']:,}",
        "seconds": _cell(measured, "seconds", 0),
        "seeds": str(seeds),
    }
    return f"{name}, {method}", {"rltool": measured}, cells


def bare_loop(learner: WGANGP) -> Callable[[], None]:
    """An iteration of WGAN-GP as one would write it, over copies of the networks, with `torch.optim.Adam`."""
    import copy

    config, real = learner.config, learner.real
    generator, critic = copy.deepcopy(learner.model.generator), copy.deepcopy(learner.model.discriminator)
    betas = (config.beta1, config.beta2)
    optimizers = {
        net: torch.optim.Adam(net.parameters(), config.learning_rate, betas=betas) for net in (generator, critic)
    }

    def step(network: torch.nn.Module, loss: torch.Tensor) -> None:
        optimizers[network].zero_grad()
        loss.backward()
        optimizers[network].step()

    def iterate() -> None:
        for _ in range(config.discriminator_steps):
            x = real[torch.randint(len(real), (config.batch_size,))]
            with torch.no_grad():
                fake = generator(torch.randn(config.batch_size, config.noise_size))
            share = torch.rand(len(x), *[1] * (x.ndim - 1))
            between = (x + share * (fake - x)).requires_grad_()
            (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
            penalty = ((gradient.flatten(1).norm(2, 1) - 1) ** 2).mean()
            step(critic, critic(fake).mean() - critic(x).mean() + config.penalty_weight * penalty)
        critic.requires_grad_(False)
        step(generator, -critic(generator(torch.randn(config.batch_size, config.noise_size))).mean())
        critic.requires_grad_(True)

    return iterate


def speed(data: str, rounds: int) -> Row:
    """Milliseconds of an iteration, ours and the bare loop's in turn; without the running mean, which that lacks."""
    method = METHODS["wgan-gp"].load()
    config = resolve_options(method, data, {})[1]
    assert isinstance(config, WGANGPConfig)
    learner = WGANGP(data, config.model_copy(update={"ema": 0.0}))
    learner.total_timesteps = 10**9
    sides: dict[str, Callable[[], object]] = {"rltool": learner.train_step, "bare loop": bare_loop(learner)}
    repeats = 60 if len(learner.shape) == 1 else 8
    measured: dict[str, list[Measurement]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, iterate in sides.items():
            start = time.perf_counter()
            for _ in range(repeats):
                iterate()
            if number:
                measured[name].append({"figure": (time.perf_counter() - start) / repeats * 1e3})
    pairs = zip(*measured.values(), strict=True)
    paired = statistics.median(ours["figure"] / bare["figure"] for ours, bare in pairs)
    cells = {f"{name} [ms]": spread(each, 2) for name, each in measured.items()}
    cells |= {"rltool / bare loop": ratio(measured["rltool"], measured["bare loop"]), "in pairs": f"{paired:.2f}"}
    return f"{data}, wgan-gp, batches of {config.batch_size}", measured, cells


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", default="all", choices=("toys", "images", "speed", "all"))
    parser.add_argument("--data", nargs="+", help="only these data sets")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "benchmarks.md")
    given = parser.parse_args()
    torch.set_num_threads(1)
    parts = {
        "toys": (toys, ["ring8", "grid25"], given.seeds),
        "images": (images, ["digits"], given.seeds),
        "speed": (speed, ["ring8", "digits"], given.rounds),
    }
    for part, (measure, data, count) in parts.items():
        if given.part not in (part, "all"):
            continue
        rows = [measure(each, count) for each in given.data or data]
        for row in rows:
            publish(part, row, given.out, given.page, "gan")
        report(part, rows)


if __name__ == "__main__":
    main()
