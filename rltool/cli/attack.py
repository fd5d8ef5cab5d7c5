"""`rltool attack RUN`: attack what a trained agent sees, or what a classifier is shown."""

from __future__ import annotations

import inspect
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand
from typer.main import get_command

from rltool.attacks.config import ATTACKS
from rltool.cli.opening import (
    AsJson,
    EnvArgs,
    EnvOption,
    RunOrZip,
    VecNormalize,
    open_agent,
    open_classifier,
    print_json,
)
from rltool.errors import UserError, unknown

DEFAULT = "pgd"


def attack(
    run: RunOrZip,
    name: Annotated[
        str, typer.Option("--attack", "-a", help="Which attack; see [bold]rltool list attacks[/].")
    ] = DEFAULT,
    episodes: Annotated[int, typer.Option("--episodes", "-e", help="Episodes to play, each way.", min=1)] = 50,
    fraction: Annotated[float, typer.Option("--fraction", help="Share of the timesteps that are attacked.")] = 1.0,
    examples: Annotated[
        int, typer.Option("--examples", help="Test examples to attack, for classifiers.", min=1)
    ] = 1_000,
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            metavar="CLASS",
            help="Class that a classifier shall give instead; its own examples are left out.",
        ),
    ] = None,
    proxy: Annotated[
        list[str] | None,
        typer.Option("--proxy", metavar="RUN", help="A run that transfer attacks in the victim's stead; or several."),
    ] = None,
    picture: Annotated[
        bool,
        typer.Option("--picture", help="Draw ten examples, of classifiers: clean, perturbation magnified, attacked."),
    ] = False,
    video: Annotated[
        bool,
        typer.Option("--video", help="Film an episode, of agents: clean and attacked side by side, into videos/."),
    ] = False,
    env: EnvOption = None,
    seed: Annotated[int, typer.Option("--seed", help="Seeds environments and attack.", min=0)] = 0,
    env_arg: EnvArgs = None,
    vecnormalize: VecNormalize = None,
    json_: AsJson = False,
    **own: Any,
) -> None:
    """Attack what a trained agent sees, or what a classifier is shown, and say what is left of its score.

    [bold]rltool attack --attack NAME --help[/] shows an attack's own options.
    """
    from rltool.attacks.making import make_attack, suit_policies
    from rltool.training.run import Run

    options = {option: value for option, value in own.items() if value is not None}
    made: Any = make_attack(name, seed=seed, **options)  # First: a wrong option need not wait for the run.
    if proxy:
        made = with_proxies(made, proxy)
    classifier = open_classifier(run)
    figures: dict[str, Any]
    if classifier is not None:
        from rltool.attacks.classifiers import attack_classifier, fit_attack

        if video:
            raise UserError("--video films agents; of a classifier, draw a --picture")
        if fraction != 1:
            raise UserError("--fraction is of an agent's timesteps; leave it out for a classifier")
        aim = None if target is None else _class_of(classifier, target)
        made = fit_attack(classifier, made, aim)
        where = classifier.data
        figures = {} if aim is None else {"target": classifier.dataset.classes[aim]}
        figures |= attack_classifier(classifier, made, examples, aim).as_dict()
        figures |= _of_learning(made, run, name)
        if picture:
            path = Run(run).path / f"{name}-examples.png"
            figures["examples_picture"] = str(_draw(classifier, made, path, aim))
    else:
        from rltool.attacks.policies import attack_agent

        if picture:
            raise UserError("--picture draws what a classifier is shown; of an agent, film a --video")
        if target is not None:
            raise UserError("--target is a classifier's; lure an agent by --attack targeted --target-action")
        made = suit_policies(made, options)
        agent, folder, where, env_kwargs = open_agent(run, env, env_arg or [], vecnormalize)
        made.check_reach(agent)  # Before it learns anything.
        parts = made.suite(agent)
        made = made if parts else made.prepare(agent, where, env_kwargs, seed)
        result = attack_agent(agent, where, made, episodes, seed, fraction=fraction, env_kwargs=env_kwargs)
        figures = result.as_dict()
        if video:
            from rltool.attacks.pictures import film_attack

            filmed = parts[result.play.by].prepare(agent, where, env_kwargs, seed) if parts else made
            file = folder / "videos" / f"attack-{name}-seed{seed}.mp4"
            film_attack(agent, where, filmed, file, seed, fraction=fraction, env_kwargs=env_kwargs)
            figures["video"] = str(file)
    from rltool.attacks.checks import small_steps

    flag = small_steps(made)
    if flag.raised:
        print(f"{flag.name}: {flag.evidence}; {flag.advice}", file=sys.stderr)
    epsilon: Any = getattr(made, "epsilon", None)
    report = {
        "data": where,
        "attack": name,
        "norm": made.norm,
        "epsilon": epsilon.tolist() if hasattr(epsilon, "tolist") else epsilon,
        "unit": getattr(made, "unit", "raw"),
        **figures,
    }
    if json_:
        print_json(report)
    else:
        print(_sentences(report))


# What every attack takes; the options of one are added when the command line names it.
COMMON = [
    each.replace(kind=inspect.Parameter.KEYWORD_ONLY)
    for each in inspect.signature(attack, eval_str=True).parameters.values()
    if each.kind is not inspect.Parameter.VAR_KEYWORD
]
attack.__signature__ = inspect.Signature(COMMON)  # type: ignore[attr-defined]


class AttackCommand(TyperCommand):
    """The verb; where the command line names an attack, that attack's hyperparameters are options, too."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        name = named_attack(args)
        if name is None and {"-h", "--help"} & {*args}:
            return super().make_context(info_name, args, parent, **extra)
        return build_command(name or DEFAULT).make_context(info_name, args, parent, **extra)


def named_attack(args: list[str]) -> str | None:
    """The attack that a command line names; None, if it names none."""
    for position, arg in enumerate(args):
        if arg in ("--attack", "-a"):
            return next(iter(args[position + 1 :]), None)
        if arg.startswith("--attack="):
            return arg.partition("=")[2]
        if arg.startswith("-a"):
            return arg[2:]
    return None


def build_command(name: str) -> Any:
    """The command with the options of one attack."""
    from rltool.attacks.making import no_such_option
    from rltool.cli.options import OptionsCommand, dataclass_parameters

    entry = ATTACKS[name]
    kind = entry.load()
    own = list(dataclass_parameters(kind, name, skip=frozenset({"seed", *getattr(kind, "learned", ())})))
    if hasattr(kind, "inner"):
        inner = dataclass_parameters(kind.inner, name, skip=frozenset({"seed", *(each.name for each in own)}))
        own = [*inner, *own]

    class OneAttack(OptionsCommand):
        def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
            try:
                return super().make_context(info_name, args, parent, **extra)
            except Exception as error:
                if not hasattr(error, "possibilities"):  # Not one of an option that there is not.
                    raise
                raise UserError(no_such_option(name, vars(error)["option_name"], [each.name for each in own])) from None

    def command(**values: Any) -> None:
        attack(**values)

    parameters = COMMON + own
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    single = typer.Typer(add_completion=False, rich_markup_mode="rich")
    single.command("attack", cls=OneAttack, help=f"{name}: {entry.summary}.")(command)
    return get_command(single)


def with_proxies(made: Any, runs: list[str]) -> Any:
    """The attack on other runs, in the victim's stead.

    Raises:
        UserError: It has no use for proxies, or a run cannot be one.
    """
    from rltool.attacks.transfer import Transfer

    if not isinstance(made, Transfer):
        raise UserError("--proxy is for --attack transfer")
    return replace(made, proxies=tuple(map(_proxy, runs)))


def _proxy(run: str) -> Any:
    from rltool.agents.loading import load_agent
    from rltool.attacks.classifiers import victim_of
    from rltool.attacks.victim import Victim
    from rltool.cli.opening import open_run_of_agent

    classifier = open_classifier(run)
    if classifier is not None:
        return victim_of(classifier)
    return Victim.from_agent(load_agent(run) if Path(run).is_file() else open_run_of_agent(run).agent)


def _class_of(classifier: Any, text: str) -> int:
    """The class of that name, or of that number."""
    names = classifier.dataset.classes
    if text in names:
        return int(names.index(text))
    if text.isdecimal() and int(text) < len(names):
        return int(text)
    raise unknown("class", text, names)


def _of_learning(made: Any, run: str, name: str) -> dict[str, Any]:
    """What there is to say of what an attack has learned: its picture, written beside the run, and what it asked."""
    figures: dict[str, Any] = {"proxy_queries": made.asked} if getattr(made, "asked", 0) else {}
    picture = made.picture()
    if picture is not None:
        from matplotlib.image import imsave

        from rltool.training.run import Run

        pixels = picture.cpu().numpy().clip(0, 1).transpose(1, 2, 0)
        path = Run(run).path / f"{name}.png"
        # Every pixel as a square that one can see.
        large = pixels.repeat(16, 0).repeat(16, 1)
        imsave(path, large if large.shape[2] == 3 else large[:, :, 0], vmin=0, vmax=1, cmap="gray")
        figures["picture"] = str(path)
    return figures


def _draw(classifier: Any, made: Any, path: Path, target: int | None) -> Path:
    """Draw the first test examples that are read rightly, and what the attack makes of them."""
    import torch

    from rltool.attacks.classifiers import examples_of, victim_of
    from rltool.attacks.pictures import draw_examples

    x, y, targets = examples_of(classifier, "test", target)
    right = torch.nonzero(classifier.logits(x).argmax(1) == y)[:10, 0]
    victim = victim_of(classifier)
    result = made(victim, x[right], y[right], None if targets is None else targets[right])
    return draw_examples(victim, x[right], result, classifier.dataset.classes, path)


UNITS = {"raw": "", "std": " standard deviations", "newton": " newtons", "share": " of the actions"}


def _sentences(report: dict[str, Any]) -> str:
    radii = report["epsilon"] if isinstance(report["epsilon"], list) else [report["epsilon"]]
    unit = UNITS.get(report["unit"], f" in units of {report['unit']}")
    radius = f" within {', '.join(f'{each:g}' for each in radii)}{unit}" if radii != [None] else ""
    begin = f"{report['attack']} on {report['data']} ({report['norm']}{radius}): "
    if "examples" in report:
        return begin + (
            f"accuracy {report['clean']:.2%} without, {report['attacked']:.2%} with it; {report['examples']} examples, "
            + ("" if math.isnan(report["median_distance"]) else f"median distance {report['median_distance']:.4g}, ")
            + f"{report['queries']:.0f} queries each, "
            f"{report['seconds']:.1f} s"
            + (f"; {report['flip_rate']:.0%} of what was right became {report['target']}" if "target" in report else "")
            + (f"; {report['proxy_queries']} answers to learn from" if "proxy_queries" in report else "")
            + (f"; it is in {report['picture']}" if "picture" in report else "")
            + (f"; examples are in {report['examples_picture']}" if "examples_picture" in report else "")
        )
    return begin + (
        f"return {report['clean']:.2f} without, {report['attacked']:.2f} ± {report['attacked_std']:.2f} with it, "
        f"{report['random']:.2f} at random; {report['normalized']:.0%} of the way is left. "
        + ("" if report["flip_rate"] is None else f"{report['flip_rate']:.0%} of the actions changed; ")
        + (f"{report['attacked_share']:.0%} of the timesteps attacked; " if report["attacked_share"] < 1 else "")
        + f"{report['episodes']} episodes, {report['seconds']:.1f} s"
        + (f"; the strongest was {report['by']}" if "by" in report else "")
        + (f"; filmed in {report['video']}" if "video" in report else "")
    )
