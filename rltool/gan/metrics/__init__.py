"""Metrics of generated samples: functions from points, features or predictions to numbers. Free of torch."""

from typing import TYPE_CHECKING

from rltool.lazy import lazy_exports

if TYPE_CHECKING:
    from rltool.gan.metrics.frechet import frechet_distance as frechet_distance
    from rltool.gan.metrics.inception import inception_score as inception_score
    from rltool.gan.metrics.kernel import kernel_distance as kernel_distance
    from rltool.gan.metrics.modes import nearest_mode as nearest_mode
    from rltool.gan.metrics.neighbors import compare_manifolds as compare_manifolds
    from rltool.gan.metrics.neighbors import memorization as memorization
    from rltool.gan.metrics.neighbors import support_size as support_size
    from rltool.gan.metrics.sums import Estimate as Estimate
    from rltool.gan.metrics.sums import GroupedSums as GroupedSums
    from rltool.gan.metrics.sums import estimate as estimate

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "frechet": ["frechet_distance"],
        "inception": ["inception_score"],
        "kernel": ["kernel_distance"],
        "modes": ["nearest_mode"],
        "neighbors": ["compare_manifolds", "memorization", "support_size"],
        "sums": ["Estimate", "GroupedSums", "estimate"],
    },
)
