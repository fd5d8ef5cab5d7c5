"""rltool against Stable-Baselines3 on one machine, in turn, each measurement in a process of its own.

    python benchmarks/rl.py [throughput|solve|final|memory|startup|all] [--seeds 5] [--runs ppo:CartPole-v1 ...]

Both sides compute with one torch thread. One table of settings, `ZOO`, drives both: it is written in rltool's option
names, and `make_sb3` translates them. Every measurement goes into `benchmarks/results/rl-PART.json`, the medians into
`docs/benchmarks.md`. Ratios above 1 speak for rltool.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from publishing import CONSOLE, ROOT, Measured, Measurement, Row, figures, publish, ratio, report, spread

# Torch and stable_baselines3 are imported where they are measured, never in the parent process.

EVALUATION_SEED = 1_000_000  # Evaluation episodes are none of those that training or its evaluations have seen.


class Peer(NamedTuple):
    """What rl-baselines3-zoo publishes: its budget, its mean return (deterministic), its tuned settings.

    Also what tianshou publishes for 1M timesteps: the mean over ten seeds of each one's best evaluation.
    """

    timesteps: int
    published: float
    settings: dict[str, Any]
    tianshou: float | None = None


NORM = {"normalize_observations": True, "normalize_returns": True}
GSDE = {"action_std": "gsde"}
LINEAR = {"learning_rate_schedule": "linear"}
LANDER = {"num_envs": 16, "num_steps": 1024, "num_epochs": 4, "gamma": 0.999, "gae_lambda": 0.98, "ent_coef": 0.01}
WIDE = {"hidden_sizes": [256, 256], "activation": "relu", "log_std_init": -2.0, "init": "default"}
# The zoo's Box2D environments are v2 where these are v3, and its MuJoCo environments v3 where these are v5.
ZOO = {
    "ppo:CartPole-v1": Peer(100_000, 500.0, {
        "num_envs": 8, "num_steps": 32, "batch_size": 256, "num_epochs": 20, "gamma": 0.98, "gae_lambda": 0.8,
        "learning_rate": 1e-3, "clip_range": 0.2, "clip_range_schedule": "linear", **LINEAR,
    }),
    "a2c:CartPole-v1": Peer(500_000, 500.0, {"num_envs": 8}),
    "ppo:Acrobot-v1": Peer(1_000_000, -73.5, {
        "num_envs": 16, "num_steps": 256, "num_epochs": 4, "gae_lambda": 0.94, **NORM,
    }),
    "a2c:Acrobot-v1": Peer(500_000, -83.4, {"num_envs": 16, **NORM}),
    "ppo:MountainCar-v0": Peer(1_000_000, -110.4, {
        "num_envs": 16, "num_steps": 16, "num_epochs": 4, "gae_lambda": 0.98, **NORM,
    }),
    "a2c:MountainCar-v0": Peer(1_000_000, -111.3, {"num_envs": 16, **NORM}),
    "ppo:MountainCarContinuous-v0": Peer(20_000, 88.3, {
        # The zoo's file says batches of 256, of which a rollout of 8 timesteps leaves 8.
        "num_envs": 1, "num_steps": 8, "batch_size": 8, "num_epochs": 10, "gamma": 0.9999, "gae_lambda": 0.9,
        "learning_rate": 7.77e-5, "clip_range": 0.1, "ent_coef": 0.00429, "max_grad_norm": 5.0, "vf_coef": 0.19,
        "log_std_init": -3.29, "init": "default", **GSDE, **NORM,
    }),
    "a2c:MountainCarContinuous-v0": Peer(100_000, 91.2, {
        "num_envs": 4, "num_steps": 100, "sde_sample_freq": 16, "init": "default", **GSDE, **NORM,
    }),
    "ppo:Pendulum-v1": Peer(100_000, -172.2, {
        "num_envs": 4, "num_steps": 1024, "num_epochs": 10, "gamma": 0.9, "learning_rate": 1e-3,
        "sde_sample_freq": 4, **GSDE,
    }),
    "a2c:Pendulum-v1": Peer(1_000_000, -163.0, {
        "num_envs": 8, "num_steps": 8, "gamma": 0.9, "gae_lambda": 0.9, "vf_coef": 0.4, "log_std_init": -2.0,
        "init": "default", **LINEAR, **GSDE, **NORM,
    }),
    "ppo:LunarLander-v3": Peer(1_000_000, 242.1, LANDER),
    "a2c:LunarLander-v3": Peer(200_000, 155.8, {
        "num_envs": 8, "gamma": 0.995, "learning_rate": 8.3e-4, "ent_coef": 1e-5, **LINEAR,
    }),
    "ppo:LunarLanderContinuous-v3": Peer(1_000_000, 270.9, LANDER),
    "ppo:BipedalWalker-v3": Peer(5_000_000, 287.9, {
        "num_envs": 32, "num_epochs": 10, "gamma": 0.999, "clip_range": 0.18, **NORM,
    }),
    "ppo:HalfCheetah-v5": Peer(1_000_000, 5819.1, {
        "num_steps": 512, "num_epochs": 20, "gamma": 0.98, "gae_lambda": 0.92, "learning_rate": 2.0633e-5,
        "clip_range": 0.1, "ent_coef": 0.000401762, "max_grad_norm": 0.8, "vf_coef": 0.58096, **WIDE, **NORM,
    }, 5783.9),
    "a2c:HalfCheetah-v5": Peer(1_000_000, 3041.2, NORM, 1829.9),
    "ppo:Hopper-v5": Peer(1_000_000, 2410.4, {
        "num_steps": 512, "batch_size": 32, "num_epochs": 5, "gamma": 0.999, "gae_lambda": 0.99,
        "learning_rate": 9.80828e-5, "ent_coef": 0.00229519, "max_grad_norm": 0.7, "vf_coef": 0.835671, **WIDE, **NORM,
    }, 2609.3),
    "a2c:Hopper-v5": Peer(1_000_000, 733.5, NORM, 1253.2),
    "ppo:Walker2d-v5": Peer(1_000_000, 3478.8, {
        "num_steps": 512, "batch_size": 32, "num_epochs": 20, "learning_rate": 5.05041e-5, "clip_range": 0.1,
        "ent_coef": 0.000585045, "max_grad_norm": 1.0, "vf_coef": 0.871923, **NORM,
    }, 3588.5),
    "a2c:Walker2d-v5": Peer(1_000_000, 581.8, NORM, 1091.6),
    "ppo:Ant-v5": Peer(1_000_000, 1327.2, NORM, 3258.4),
    "a2c:Ant-v5": Peer(1_000_000, -44.0, NORM, 3485.4),
}  # fmt: skip
# For throughput, where the zoo's settings have one environment: tianshou's, which collect from several.
TIANSHOU = {
    "ppo": {
        "num_envs": 8, "num_steps": 256, "learning_rate": 3e-4, "vf_coef": 0.25, "log_std_init": -0.5, **LINEAR, **NORM,
    },
    "a2c": {
        "num_envs": 16, "gae_lambda": 0.95, "learning_rate": 7e-4, "ent_coef": 0.01, "log_std_init": -0.5,
        **LINEAR, **NORM,
    },
}  # fmt: skip
SOLVED_AT = {
    "CartPole-v1": 475.0,
    "Acrobot-v1": -100.0,
    "MountainCar-v0": -110.0,
    "MountainCarContinuous-v0": 90.0,
}
SB3_NAMES = {"num_steps": "n_steps", "num_epochs": "n_epochs"}


# In the process that is measured


def reached(returns: Collection[float], threshold: float | None) -> bool:
    """Whether the last 100 training episodes reach the threshold on average."""
    return threshold is not None and len(returns) >= 100 and statistics.fmean(returns) >= threshold


def mean_return(agent: Any, env_id: str, seed: int) -> float:
    """Deterministic return over 100 episodes; the same code for both sides."""
    import rltool

    return rltool.evaluate(agent, env_id, episodes=100, seed=EVALUATION_SEED + seed).mean_return


def measure_rltool_class(job: dict[str, Any]) -> Measurement:
    """Time `learn` of an agent made with the job's settings."""
    from gymnasium.vector import AutoresetMode

    import rltool.agents

    agent = getattr(rltool.agents, job["method"].upper())(job["env"], seed=job["seed"], **job["settings"])
    start = time.perf_counter()
    agent.learn(job["timesteps"])
    seconds = time.perf_counter() - start
    # In this mode one step after each episode only resets, which SB3 does not count.
    resets = agent.collector.statistics.finished if agent.collector.autoreset_mode is AutoresetMode.NEXT_STEP else 0
    return {"seconds": seconds, "timesteps": agent.timesteps - resets, "solved": False}


def measure_rltool_train(job: dict[str, Any]) -> Measurement:
    """Train as `rltool train` does, with the environment's preset, until the threshold or the end of the budget."""
    import rltool
    from rltool.training.methods import METHODS
    from rltool.training.train import resolve_options

    run_config, _, preset = resolve_options(METHODS[job["method"]].load(), job["env"], {})
    # Never more than the peer's budget; without a preset, all of it.
    budget = min(run_config.total_timesteps, job["timesteps"]) if preset != "none" else job["timesteps"]
    agent, solved = None, False

    def watch(learner: Any, metrics: Any) -> bool:
        nonlocal agent, solved
        agent, solved = learner, reached(learner.collector.statistics.returns, job["threshold"])
        return not solved

    with tempfile.TemporaryDirectory() as folder:
        run = rltool.train(
            job["method"], job["env"], callback=watch, seed=job["seed"], total_timesteps=budget, run_dir=folder
        )
        summary = run.summary  # Its seconds count from the first step, evaluations included.
        result = {"seconds": summary["seconds"], "timesteps": summary["total_timesteps"], "solved": solved}
        result |= {"preset": preset, "preset_timesteps": run_config.total_timesteps if preset != "none" else None}
        if job["evaluate"]:
            result["mean_return"] = mean_return(run.agent, job["env"], job["seed"])
            result["mean_return_of_last_weights"] = mean_return(agent, job["env"], job["seed"])
    return result


def make_sb3(job: dict[str, Any]) -> Any:
    """The SB3 model with the job's settings, as its users and the zoo make it."""
    import stable_baselines3
    import torch
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    settings, policy = dict(job["settings"]), {}
    env: Any = make_vec_env(job["env"], settings.pop("num_envs", 1), seed=job["seed"])
    if settings.pop("normalize_observations", False) and settings.pop("normalize_returns"):
        env = VecNormalize(env, gamma=settings.get("gamma", 0.99))
    for name in ("learning_rate", "clip_range"):
        if settings.pop(f"{name}_schedule", "constant") == "linear":
            value = settings.get(name, 7e-4)  # The default is A2C's; the zoo names PPO's.
            settings[name] = lambda remaining, value=value: remaining * value
    settings["use_sde"] = settings.pop("action_std", None) == "gsde"
    if "log_std_init" in settings:
        policy["log_std_init"] = settings.pop("log_std_init")
    if settings.pop("init", "orthogonal") == "default":
        policy["ortho_init"] = False
    if "hidden_sizes" in settings:
        policy["net_arch"] = settings.pop("hidden_sizes")
    if settings.pop("activation", "tanh") == "relu":
        policy["activation_fn"] = torch.nn.ReLU
    settings = {SB3_NAMES.get(name, name): value for name, value in settings.items()}
    model_class = getattr(stable_baselines3, job["method"].upper())
    return model_class("MlpPolicy", env, policy_kwargs=policy, seed=job["seed"], device="cpu", **settings)


def measure_sb3(job: dict[str, Any]) -> Measurement:
    """Time `learn` until the threshold, if there is one, or the end of the budget."""
    from stable_baselines3.common.callbacks import BaseCallback

    class StopWhenSolved(BaseCallback):
        solved = False

        def _on_step(self) -> bool:
            if self.locals["dones"].any():
                returns = [episode["r"] for episode in self.model.ep_info_buffer]
                self.solved = reached(returns, job["threshold"])
            return not self.solved

    model, callback = make_sb3(job), StopWhenSolved()
    start = time.perf_counter()
    model.learn(job["timesteps"], callback=callback if job["threshold"] is not None else None)
    seconds = time.perf_counter() - start
    result = {"seconds": seconds, "timesteps": model.num_timesteps, "solved": callback.solved}
    if job["evaluate"]:
        normalizer = model.get_vec_normalize_env()

        class Predictor:
            def predict(self, observation: Any, **options: Any) -> Any:
                return model.predict(normalizer.normalize_obs(observation) if normalizer else observation, **options)

        result["mean_return"] = mean_return(Predictor(), job["env"], job["seed"])
    return result


def measure(job: dict[str, Any]) -> Measurement:
    """What the process of one measurement does."""
    import torch

    torch.set_num_threads(1)
    sides = {"rltool": measure_rltool_train if job["tuned"] else measure_rltool_class, "sb3": measure_sb3}
    result = sides[job["side"]](job) if job["side"] in sides else {}
    if result:
        result["timesteps_per_second"] = result["timesteps"] / result["seconds"]
        if job["threshold"] is not None:
            result["seconds_to_solve"] = result["seconds"] if result["solved"] else None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seed": job["seed"], **result, "peak_memory_mb": peak / (2**20 if sys.platform == "darwin" else 2**10)}


# In the parent process


def run(command: Sequence[str], expected_code: int = 0) -> str:
    """Run a command with one thread; its output."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode != expected_code:
        raise SystemExit(f"failed: {' '.join(command)}\n{done.stderr[-3000:]}")
    return done.stdout


def compare(
    name: str, figure: str, seeds: int, sides: Sequence[str] = ("rltool", "sb3"), jobs: int = 1, **job: Any
) -> Measured:
    """Measure the sides in turn, seed by seed; `figure` names the number of interest (None: not reached)."""
    method, env = name.split(":")
    job = {"method": method, "env": env, "settings": ZOO[name].settings, "timesteps": ZOO[name].timesteps} | job
    job = {"tuned": False, "threshold": None, "evaluate": False} | job

    def measured(turn: tuple[str, int]) -> Measurement:
        text = json.dumps(job | {"side": turn[0], "seed": turn[1]})
        result = json.loads(run([sys.executable, __file__, "--measure", text]).splitlines()[-1])
        shown = ", ".join(f"{k} {v:,.1f}" if isinstance(v, float) else f"{k} {v}" for k, v in result.items())
        CONSOLE.print(f"{name}, {turn[0]}: {shown}", soft_wrap=True)
        return result | {"figure": result[figure]}

    turns = [(side, seed) for seed in range(seeds) for side in sides]
    with ThreadPoolExecutor(jobs) as pool:
        results = list(pool.map(measured, turns))
    return {side: results[k :: len(sides)] for k, side in enumerate(sides)}


def throughput(args: argparse.Namespace) -> Iterator[Row]:
    """Timesteps per second, same settings."""
    standard = ("ppo:CartPole-v1", "a2c:CartPole-v1", "ppo:Pendulum-v1", "a2c:Acrobot-v1")
    mujoco = ("ppo:HalfCheetah-v5", "a2c:HalfCheetah-v5", "ppo:Hopper-v5", "a2c:Hopper-v5")
    for name in args.runs or (*standard, *mujoco):
        variants = {name: ZOO[name].settings}
        if ZOO[name].tianshou is not None:
            settings = TIANSHOU[name.split(":")[0]]
            variants = {f"{name}, {settings['num_envs']} environments": settings}
        if "action_std" in ZOO[name].settings:
            plain = {k: v for k, v in ZOO[name].settings.items() if k not in ("action_std", "sde_sample_freq")}
            variants = {f"{name}, gSDE": ZOO[name].settings, f"{name}, Gaussian": plain}
        for title, settings in variants.items():
            m = compare(name, "timesteps_per_second", args.seeds or 5, settings=settings, timesteps=args.timesteps)
            columns = {"rltool [timesteps/s]": spread(m["rltool"]), "SB3 [timesteps/s]": spread(m["sb3"])}
            yield title, m, columns | {"rltool / SB3": ratio(m["rltool"], m["sb3"])}


def solve(args: argparse.Namespace) -> Iterator[Row]:
    """Seconds until solved, each side with its own tuned settings."""
    for name in args.runs or ("ppo:CartPole-v1", "a2c:CartPole-v1"):
        threshold = SOLVED_AT.get(name.split(":")[1])
        if threshold is None:
            CONSOLE.print(f"{name} has no threshold to be solved at: skipped")
            continue
        m = compare(name, "seconds_to_solve", args.seeds or 5, tuned=True, threshold=threshold)
        columns = {"mean return": f"{threshold:.0f}"}
        for side, title in (("rltool", "rltool"), ("sb3", "SB3")):
            columns[f"{title} solved"] = f"{sum(map(math.isfinite, figures(m[side])))}/{len(m[side])}"
            columns[f"{title} [s]"] = spread(m[side], 1)
        yield name, m, columns | {"SB3 / rltool": ratio(m["sb3"], m["rltool"])}


def final(args: argparse.Namespace) -> Iterator[Row]:
    """Return after training at the zoo's budgets, each side with its own tuned settings; all that have a preset."""
    from rltool.agents.presets import PRESETS

    sides = ("rltool", "sb3") if args.with_sb3 else ("rltool",)
    tuned = [name for name in ZOO if name.split(":")[1] in PRESETS[name.split(":")[0]]]
    for name in args.runs or tuned:
        m = compare(name, "mean_return", args.seeds or 3, sides, args.jobs, tuned=True, evaluate=True)
        ours, peer = m["rltool"], ZOO[name]
        yield (
            name,
            m,
            {
                "rltool": spread(ours, 1, statistics.fmean),
                "its last weights": f"{statistics.fmean(x['mean_return_of_last_weights'] for x in ours):,.1f}",
                "preset": ours[0]["preset"],
                "timesteps": f"{ours[0]['timesteps']:,}",
                "SB3 here": spread(m["sb3"], 1, statistics.fmean) if "sb3" in m else "–",
                "zoo's table": f"{peer.published:,.1f}",
                "zoo's timesteps": f"{peer.timesteps:,}",
                "tianshou's table": "–" if peer.tianshou is None else f"{peer.tianshou:,.1f}",
            },
        )


def memory(args: argparse.Namespace) -> Iterator[Row]:
    """Peak resident memory of the whole process, same settings; the side "torch" only imports it."""
    for name in args.runs or ("ppo:CartPole-v1", "a2c:CartPole-v1"):
        sides = {"rltool": "rltool", "sb3": "SB3", "torch": "`import torch`"}
        m = compare(name, "peak_memory_mb", args.seeds or 3, list(sides), timesteps=args.timesteps)
        columns = {f"{title} [MiB]": spread(m[side]) for side, title in sides.items()}
        yield name, m, columns | {"SB3 / rltool": ratio(m["sb3"], m["rltool"])}


def startup(args: argparse.Namespace) -> Iterator[Row]:
    """Seconds from the start of a process to its end, or to the first step of its environment."""
    python, rltool = sys.executable, str(Path(sys.executable).with_name("rltool"))
    until_step = (
        "import os, sys; from gymnasium.envs.classic_control import cartpole\n"
        "cartpole.CartPoleEnv.step = cartpole.CartPoleVectorEnv.step = lambda *_: os._exit(3)\n"
    )
    sb3_code = "from stable_baselines3 import A2C; A2C('MlpPolicy', 'CartPole-v1').learn(1000)"
    with tempfile.TemporaryDirectory() as folder:
        rltool_code = f"sys.argv[1:] = ['train', 'a2c', 'CartPole-v1', '--run-dir', {folder!r}]\n"
        rltool_code += "from rltool.cli.main import main; main()"
        commands = {
            "python -c 'import torch'": ([python, "-c", "import torch"], 0),
            "rltool --help": ([rltool, "--help"], 0),
            "rltool train --help": ([rltool, "train", "--help"], 0),
            "rltool train a2c CartPole-v1, until the first step": ([python, "-c", until_step + rltool_code], 3),
            "SB3's A2C('MlpPolicy', 'CartPole-v1').learn, until the first step": (
                [python, "-c", until_step + sb3_code],
                3,
            ),
        }
        taken: dict[str, list[Measurement]] = {name: [] for name in commands}
        for turn in range(-1, args.seeds or 7):  # Turn -1 warms the disk cache.
            for name, (command, code) in commands.items():
                start = time.perf_counter()
                run(command, code)
                if turn >= 0:
                    taken[name].append({"figure": time.perf_counter() - start})
                    CONSOLE.print(f"{name}: {taken[name][-1]['figure']:.2f} s")
    torch = taken["python -c 'import torch'"]
    for name, m in taken.items():
        yield name, {"seconds": m}, {"seconds": spread(m, 2), "times `import torch`": ratio(m, torch)}


PARTS = {"throughput": throughput, "solve": solve, "final": final, "memory": memory, "startup": startup}


def main() -> None:
    """Measure, print, write."""
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(json.loads(sys.argv[2]))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=[*PARTS, "all"], default="all")
    parser.add_argument("--seeds", type=int, help="measurements of each side (throughput, solve 5; final 3; startup 7)")
    parser.add_argument("--runs", nargs="+", choices=list(ZOO), metavar="METHOD:ENV", help=f"of {', '.join(ZOO)}")
    parser.add_argument("--timesteps", type=int, default=40_960, help="of a throughput or memory run: multiple of 4096")
    parser.add_argument("--with-sb3", action="store_true", help="final: train SB3 too (hours)")
    parser.add_argument("--jobs", type=int, default=1, help="final, which times nothing: measurements at a time")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the JSON files")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "benchmarks.md", help="page with the tables")
    args = parser.parse_args()
    for part in PARTS if args.part == "all" else [args.part]:
        rows: list[Row] = []
        for row in PARTS[part](args):
            publish(part, row, args.out, args.page)
            rows.append(row)
        if rows:
            report(part, rows)


if __name__ == "__main__":
    main()
