"""Attacks on classifiers and policies."""

from typing import TYPE_CHECKING

from rltool.lazy import lazy_exports

if TYPE_CHECKING:
    from rltool.attacks.adversary import AdversaryVectorEnv as AdversaryVectorEnv
    from rltool.attacks.adversary import LearnedAdversary as LearnedAdversary
    from rltool.attacks.adversary import train_adversary as train_adversary
    from rltool.attacks.apgd import APGD as APGD
    from rltool.attacks.attack import Attack as Attack
    from rltool.attacks.attack import AttackResult as AttackResult
    from rltool.attacks.classifiers import AttackedAccuracy as AttackedAccuracy
    from rltool.attacks.classifiers import attack_classifier as attack_classifier
    from rltool.attacks.gradient import FGSM as FGSM
    from rltool.attacks.gradient import IFGSM as IFGSM
    from rltool.attacks.gradient import MAD as MAD
    from rltool.attacks.gradient import MIFGSM as MIFGSM
    from rltool.attacks.gradient import PGD as PGD
    from rltool.attacks.minimum import CarliniWagner as CarliniWagner
    from rltool.attacks.minimum import DeepFool as DeepFool
    from rltool.attacks.noise import RandomNoise as RandomNoise
    from rltool.attacks.policies import AttackedEvaluation as AttackedEvaluation
    from rltool.attacks.policies import PerturbedVectorEnv as PerturbedVectorEnv
    from rltool.attacks.policies import attack_agent as attack_agent
    from rltool.attacks.square import Square as Square
    from rltool.attacks.victim import Victim as Victim

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "adversary": ["AdversaryVectorEnv", "LearnedAdversary", "train_adversary"],
        "apgd": ["APGD"],
        "attack": ["Attack", "AttackResult"],
        "classifiers": ["AttackedAccuracy", "attack_classifier"],
        "gradient": ["FGSM", "IFGSM", "MAD", "MIFGSM", "PGD"],
        "minimum": ["CarliniWagner", "DeepFool"],
        "noise": ["RandomNoise"],
        "policies": ["AttackedEvaluation", "PerturbedVectorEnv", "attack_agent"],
        "square": ["Square"],
        "victim": ["Victim"],
    },
)
