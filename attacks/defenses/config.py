"""Passive defenses by name; free of torch."""

from rltool.registry import Registry

DEFENSES = Registry("defense", group="rltool.defenses")
DEFENSES.add("smoothing", "rltool.attacks.defenses.filters:Smoothing", "a Gaussian blur (sigma, size)")
DEFENSES.add("median", "rltool.attacks.defenses.filters:Median", "the median of each pixel's neighbourhood (size)")
DEFENSES.add("bit-depth", "rltool.attacks.defenses.filters:BitDepth", "fewer grey levels (bits)")
DEFENSES.add("jpeg", "rltool.attacks.defenses.jpeg:JPEG", "JPEG compression (quality)")
DEFENSES.add(
    "autoencoder",
    "rltool.attacks.defenses.generative:Autoencoder",
    "a denoising autoencoder that learns from the run's data (noise, latent, steps, ...)",
)
DEFENSES.add(
    "projection",
    "rltool.attacks.defenses.generative:Projection",
    "the nearest image that a generator makes, as in Defense-GAN (latent, descent, starts, ...)",
)
DEFENSES.add(
    "resize-pad", "rltool.attacks.defenses.randomized:ResizePad", "a random smaller size at a random place (smallest)"
)
DEFENSES.add("noise", "rltool.attacks.defenses.randomized:Noise", "random Gaussian noise (sigma)")
