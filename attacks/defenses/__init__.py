"""Defenses of classifiers: passive ones before the network, certificates, detection, adversarial training."""

from typing import TYPE_CHECKING

from rltool.lazy import lazy_exports

if TYPE_CHECKING:
    from rltool.attacks.defenses.certified import Certificate as Certificate
    from rltool.attacks.defenses.certified import SmoothedClassifier as SmoothedClassifier
    from rltool.attacks.defenses.certified import certify_classifier as certify_classifier
    from rltool.attacks.defenses.config import DEFENSES as DEFENSES
    from rltool.attacks.defenses.defense import Defense as Defense
    from rltool.attacks.defenses.defense import defended as defended
    from rltool.attacks.defenses.defense import make_defense as make_defense
    from rltool.attacks.defenses.detection import FeatureSqueezing as FeatureSqueezing
    from rltool.attacks.defenses.detection import Mahalanobis as Mahalanobis
    from rltool.attacks.defenses.detection import detect_classifier as detect_classifier
    from rltool.attacks.defenses.detection import make_detector as make_detector
    from rltool.attacks.defenses.filters import BitDepth as BitDepth
    from rltool.attacks.defenses.filters import Median as Median
    from rltool.attacks.defenses.filters import Smoothing as Smoothing
    from rltool.attacks.defenses.generative import Autoencoder as Autoencoder
    from rltool.attacks.defenses.generative import Projection as Projection
    from rltool.attacks.defenses.jpeg import JPEG as JPEG
    from rltool.attacks.defenses.randomized import Noise as Noise
    from rltool.attacks.defenses.randomized import ResizePad as ResizePad
    from rltool.attacks.defenses.report import DefenseReport as DefenseReport
    from rltool.attacks.defenses.report import defend_classifier as defend_classifier
    from rltool.attacks.defenses.training import RobustClassifierLearner as RobustClassifierLearner

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "certified": ["Certificate", "SmoothedClassifier", "certify_classifier"],
        "config": ["DEFENSES"],
        "defense": ["Defense", "defended", "make_defense"],
        "detection": ["FeatureSqueezing", "Mahalanobis", "detect_classifier", "make_detector"],
        "filters": ["BitDepth", "Median", "Smoothing"],
        "generative": ["Autoencoder", "Projection"],
        "jpeg": ["JPEG"],
        "randomized": ["Noise", "ResizePad"],
        "report": ["DefenseReport", "defend_classifier"],
        "training": ["RobustClassifierLearner"],
    },
)
