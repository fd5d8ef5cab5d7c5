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
    from rltool.attacks.backdoor import BackdoorScore as BackdoorScore
    from rltool.attacks.backdoor import PoisonedVectorEnv as PoisonedVectorEnv
    from rltool.attacks.backdoor import Trigger as Trigger
    from rltool.attacks.backdoor import Triggered as Triggered
    from rltool.attacks.backdoor import backdoor_of_agent as backdoor_of_agent
    from rltool.attacks.backdoor import backdoor_of_classifier as backdoor_of_classifier
    from rltool.attacks.backdoor import poison as poison
    from rltool.attacks.backdoor import poison_demonstrations as poison_demonstrations
    from rltool.attacks.classifiers import AttackedAccuracy as AttackedAccuracy
    from rltool.attacks.classifiers import attack_classifier as attack_classifier
    from rltool.attacks.gradient import FGSM as FGSM
    from rltool.attacks.gradient import IFGSM as IFGSM
    from rltool.attacks.gradient import MAD as MAD
    from rltool.attacks.gradient import MIFGSM as MIFGSM
    from rltool.attacks.gradient import PGD as PGD
    from rltool.attacks.hopskipjump import HopSkipJump as HopSkipJump
    from rltool.attacks.minimum import CarliniWagner as CarliniWagner
    from rltool.attacks.minimum import DeepFool as DeepFool
    from rltool.attacks.nes import NES as NES
    from rltool.attacks.noise import RandomNoise as RandomNoise
    from rltool.attacks.one_pixel import OnePixel as OnePixel
    from rltool.attacks.patch import Patch as Patch
    from rltool.attacks.physical import Physical as Physical
    from rltool.attacks.physical import Transformations as Transformations
    from rltool.attacks.physical import non_printability as non_printability
    from rltool.attacks.physical import total_variation as total_variation
    from rltool.attacks.policies import AttackedEvaluation as AttackedEvaluation
    from rltool.attacks.policies import PerturbedVectorEnv as PerturbedVectorEnv
    from rltool.attacks.policies import attack_agent as attack_agent
    from rltool.attacks.policy_actions import Actions as Actions
    from rltool.attacks.policy_actions import DisturbedActions as DisturbedActions
    from rltool.attacks.policy_actions import Forces as Forces
    from rltool.attacks.policy_actions import PushedVectorEnv as PushedVectorEnv
    from rltool.attacks.policy_target import Targeted as Targeted
    from rltool.attacks.policy_timing import Critical as Critical
    from rltool.attacks.policy_timing import Timed as Timed
    from rltool.attacks.policy_value import Critic as Critic
    from rltool.attacks.policy_value import Sarsa as Sarsa
    from rltool.attacks.reprogramming import Program as Program
    from rltool.attacks.reprogramming import reprogram as reprogram
    from rltool.attacks.simba import SimBA as SimBA
    from rltool.attacks.square import Square as Square
    from rltool.attacks.strongest import Strongest as Strongest
    from rltool.attacks.transfer import Transfer as Transfer
    from rltool.attacks.transfer import learn_from_answers as learn_from_answers
    from rltool.attacks.transfer import train_proxy as train_proxy
    from rltool.attacks.universal import Universal as Universal
    from rltool.attacks.victim import Victim as Victim

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "adversary": ["AdversaryVectorEnv", "LearnedAdversary", "train_adversary"],
        "apgd": ["APGD"],
        "attack": ["Attack", "AttackResult"],
        "classifiers": ["AttackedAccuracy", "attack_classifier"],
        "gradient": ["FGSM", "IFGSM", "MAD", "MIFGSM", "PGD"],
        "hopskipjump": ["HopSkipJump"],
        "minimum": ["CarliniWagner", "DeepFool"],
        "nes": ["NES"],
        "noise": ["RandomNoise"],
        "one_pixel": ["OnePixel"],
        "policies": ["AttackedEvaluation", "PerturbedVectorEnv", "attack_agent"],
        "simba": ["SimBA"],
        "policy_actions": ["Actions", "DisturbedActions", "Forces", "PushedVectorEnv"],
        "policy_target": ["Targeted"],
        "policy_timing": ["Critical", "Timed"],
        "policy_value": ["Critic", "Sarsa"],
        "square": ["Square"],
        "strongest": ["Strongest"],
        "transfer": ["Transfer", "learn_from_answers", "train_proxy"],
        "physical": ["Physical", "Transformations", "non_printability", "total_variation"],
        "patch": ["Patch"],
        "universal": ["Universal"],
        "reprogramming": ["Program", "reprogram"],
        "backdoor": [
            "BackdoorScore",
            "PoisonedVectorEnv",
            "Trigger",
            "Triggered",
            "backdoor_of_agent",
            "backdoor_of_classifier",
            "poison",
            "poison_demonstrations",
        ],
        "victim": ["Victim"],
    },
)
