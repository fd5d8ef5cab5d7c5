"""Adaptation: from the domain where labels are to the one where they are not."""

from typing import TYPE_CHECKING

from rltool.lazy import lazy_exports

if TYPE_CHECKING:
    from rltool.adaptation.adversarial import CDAN as CDAN
    from rltool.adaptation.adversarial import DANN as DANN
    from rltool.adaptation.config import AdaptationConfig as AdaptationConfig
    from rltool.adaptation.domains import Domains as Domains
    from rltool.adaptation.domains import load_domains as load_domains
    from rltool.adaptation.learner import AdaptationLearner as AdaptationLearner

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "adversarial": ["CDAN", "DANN"],
        "config": ["AdaptationConfig"],
        "domains": ["Domains", "load_domains"],
        "learner": ["AdaptationLearner"],
    },
)
