"""Attacks on classifiers and policies."""

from typing import TYPE_CHECKING

from rltool.lazy import lazy_exports

if TYPE_CHECKING:
    from rltool.attacks.apgd import APGD as APGD
    from rltool.attacks.attack import Attack as Attack
    from rltool.attacks.attack import AttackResult as AttackResult
    from rltool.attacks.gradient import FGSM as FGSM
    from rltool.attacks.gradient import IFGSM as IFGSM
    from rltool.attacks.gradient import MIFGSM as MIFGSM
    from rltool.attacks.gradient import PGD as PGD
    from rltool.attacks.minimum import CarliniWagner as CarliniWagner
    from rltool.attacks.minimum import DeepFool as DeepFool
    from rltool.attacks.square import Square as Square
    from rltool.attacks.victim import Victim as Victim

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "apgd": ["APGD"],
        "attack": ["Attack", "AttackResult"],
        "gradient": ["FGSM", "IFGSM", "MIFGSM", "PGD"],
        "minimum": ["CarliniWagner", "DeepFool"],
        "square": ["Square"],
        "victim": ["Victim"],
    },
)
