"""The methods that `rltool train` knows.

Installed packages add theirs through the entry-point group `rltool.methods`, each naming a `Method`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rltool.registry import Registry
from rltool.training.config import RunConfig

if TYPE_CHECKING:
    from pydantic import BaseModel

METHODS = Registry("method", group="rltool.methods")
METHODS.add("reinforce", "rltool.agents.methods:reinforce", "policy gradient on whole episodes, five ways of credit")
METHODS.add("a2c", "rltool.agents.methods:a2c", "advantage actor-critic: one gradient step per short rollout")
METHODS.add("ppo", "rltool.agents.methods:ppo", "proximal policy optimization with the clipped objective")
METHODS.add("bc", "rltool.agents.methods:bc", "behavior cloning: supervised learning of demonstrated actions")
METHODS.add("dagger", "rltool.agents.methods:dagger", "cloning of what an expert would do where the learner gets to")
METHODS.add("gail", "rltool.agents.methods:gail", "imitation by a discriminator of demonstrations and own steps")
METHODS.add("airl", "rltool.agents.methods:airl", "inverse RL by such a discriminator: recovers a reward of states")
METHODS.add("maxent-irl", "rltool.agents.methods:maxent_irl", "inverse RL, exact where the transition table is known")

METHODS.add(
    "classifier", "rltool.attacks.defenses.methods:classifier", "supervised learning of labels, from a data set"
)
METHODS.add("gan", "rltool.gan.methods:gan", "generative adversarial network, from a data set")
METHODS.add("lsgan", "rltool.gan.methods:lsgan", "GAN with the least-squares loss")
METHODS.add("wgan", "rltool.gan.methods:wgan", "Wasserstein GAN whose critic's weights are clipped")
METHODS.add("wgan-gp", "rltool.gan.methods:wgan_gp", "Wasserstein GAN with a penalty on the critic's gradient")
METHODS.add("sngan", "rltool.gan.methods:sngan", "GAN with the hinge loss and spectral normalization")
METHODS.add("cgan", "rltool.gan.methods:cgan", "conditional GAN: samples of the class, or the words, asked for")
METHODS.add("pix2pix", "rltool.gan.methods:pix2pix", "translation from one domain of images to another, from pairs")
METHODS.add("cyclegan", "rltool.gan.methods:cyclegan", "translation between two domains of images, without pairs")
METHODS.add(
    "seqgan",
    "rltool.gan.sequence.methods:seqgan",
    "sequence GAN: policy gradient on what a discriminator says of tokens",
)
METHODS.add("source-only", "rltool.adaptation.methods:source_only", "a classifier of the source, tried on the target")
METHODS.add("target-oracle", "rltool.adaptation.methods:target_oracle", "a classifier that is told the target's labels")
METHODS.add("dann", "rltool.adaptation.methods:dann", "features that a domain classifier cannot tell apart")
METHODS.add("cdan", "rltool.adaptation.methods:cdan", "the same, for features and predicted class together")
METHODS.add("adda", "rltool.adaptation.methods:adda", "source first; then the target's features flee to the source's")
METHODS.add("coral", "rltool.adaptation.methods:coral", "features of both domains with the same covariance")
METHODS.add("mmd", "rltool.adaptation.methods:mmd", "features of both domains with the same moments, by kernels")
METHODS.add("mcd", "rltool.adaptation.methods:mcd", "two classifiers that agree on the target, against their will")
METHODS.add("entropy", "rltool.adaptation.methods:entropy", "self-training: certain predictions of a teacher as labels")
METHODS.add(
    "dirt-t", "rltool.adaptation.methods:dirt_t", "VADA, then a boundary that leaves the target's clusters whole"
)
METHODS.add("universal", "rltool.adaptation.methods:universal", "a target with other classes, which are found unknown")
METHODS.add("adabn", "rltool.adaptation.methods:adabn", "batch norm with the statistics of the target")
METHODS.add("tent", "rltool.adaptation.methods:tent", "batch norm adapted at test time, batch by batch")
METHODS.add(
    "fine-tune", "rltool.adaptation.methods:fine_tune", "source first, then a few labeled examples of the target"
)
METHODS.add("erm", "rltool.adaptation.methods:erm", "several sources alike, for a target nobody has seen")
METHODS.add("irm", "rltool.adaptation.methods:irm", "several sources that have the same best classifier")
METHODS.add("vrex", "rltool.adaptation.methods:vrex", "several sources whose losses vary little")
METHODS.add("group-dro", "rltool.adaptation.methods:group_dro", "several sources, of which the hardest counts most")
METHODS.add("mixstyle", "rltool.adaptation.methods:mixstyle", "examples whose styles are mixed")


@dataclass(frozen=True)
class Method:
    """What `rltool train` needs to know of a method; free of torch until `build`.

    Attributes:
        config: Its options.
        learner: `module:Class`; called as `Class(data, config, seed=, device=, env_kwargs=)`. Its objects have
            `learn`, `save`, `checkpoint`, `restore` and `evaluate`, as `rltool.agents.OnPolicyAgent` has.
        data: What it is trained on, as shown in help: "ENV".
        presets: Tuned options by DATA; they may set options of the run, too.
        variants: By an option's name and value, what the presets are changed by where it is given: options by DATA.
        training_metric: Column of metrics.csv that says how well training goes.
        evaluation_metric: The figure that an evaluation is about.
        run: Options of a run, where this method has other defaults for them.
    """

    config: type[BaseModel]
    learner: str
    data: str = "ENV"
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    variants: Mapping[tuple[str, str], Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    run: type[RunConfig] = RunConfig
    training_metric: str = "rollout/ep_rew_mean"
    evaluation_metric: str = "mean_return"

    def learner_class(self) -> Any:
        """Import the learner's class."""
        module, _, name = self.learner.partition(":")
        return getattr(importlib.import_module(module), name)
