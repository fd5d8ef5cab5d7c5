"""Attacks by name; free of torch."""

from rltool.registry import Registry

ATTACKS = Registry("attack", group="rltool.attacks")
ATTACKS.add("random", "rltool.attacks.noise:RandomNoise", "noise drawn uniformly from the ball")
ATTACKS.add("fgsm", "rltool.attacks.gradient:FGSM", "one step along the sign of the gradient")
ATTACKS.add("ifgsm", "rltool.attacks.gradient:IFGSM", "many small such steps from the clean input")
ATTACKS.add("mifgsm", "rltool.attacks.gradient:MIFGSM", "such steps with momentum")
ATTACKS.add("pgd", "rltool.attacks.gradient:PGD", "such steps from random starts, projected on the ball")
ATTACKS.add("mad", "rltool.attacks.gradient:MAD", "PGD that drives the policy's actions as far away as it can")
ATTACKS.add("learned", "rltool.attacks.adversary:LearnedAdversary", "an agent that learns to perturb what another sees")
ATTACKS.add("apgd", "rltool.attacks.apgd:APGD", "PGD that chooses its own step sizes")
ATTACKS.add("square", "rltool.attacks.square:Square", "random search that asks for outputs alone")
ATTACKS.add("deepfool", "rltool.attacks.minimum:DeepFool", "the smallest perturbation, by linearization")
ATTACKS.add("cw", "rltool.attacks.minimum:CarliniWagner", "the smallest perturbation, by Adam (Carlini & Wagner)")
