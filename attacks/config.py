"""Attacks by name; free of torch."""

from rltool.registry import Registry

ATTACKS = Registry("attack", group="rltool.attacks")
ATTACKS.add("random", "rltool.attacks.noise:RandomNoise", "noise drawn uniformly from the ball")
ATTACKS.add("fgsm", "rltool.attacks.gradient:FGSM", "one step along the sign of the gradient")
ATTACKS.add("ifgsm", "rltool.attacks.gradient:IFGSM", "many small such steps from the clean input")
ATTACKS.add("mifgsm", "rltool.attacks.gradient:MIFGSM", "such steps with momentum")
ATTACKS.add("pgd", "rltool.attacks.gradient:PGD", "such steps from random starts, projected on the ball")
ATTACKS.add("mad", "rltool.attacks.gradient:MAD", "PGD that drives the policy's actions as far away as it can")
ATTACKS.add("apgd", "rltool.attacks.apgd:APGD", "PGD that chooses its own step sizes")
ATTACKS.add("square", "rltool.attacks.square:Square", "random search that asks for outputs alone")
ATTACKS.add("nes", "rltool.attacks.nes:NES", "PGD along a gradient estimated from outputs alone (NES, SPSA)")
ATTACKS.add("simba", "rltool.attacks.simba:SimBA", "one direction after another, there or back, from outputs alone")
ATTACKS.add("hopskipjump", "rltool.attacks.hopskipjump:HopSkipJump", "the smallest perturbation, from choices alone")
ATTACKS.add("onepixel", "rltool.attacks.one_pixel:OnePixel", "a few pixels, by differential evolution")
ATTACKS.add("universal", "rltool.attacks.universal:Universal", "one perturbation for all inputs")
ATTACKS.add("transfer", "rltool.attacks.transfer:Transfer", "made on proxies, shown to the victim")
ATTACKS.add("physical", "rltool.attacks.physical:Physical", "one that survives being moved, turned and lit otherwise")
ATTACKS.add("patch", "rltool.attacks.patch:Patch", "one sticker for all images, anywhere on them")
ATTACKS.add("deepfool", "rltool.attacks.minimum:DeepFool", "the smallest perturbation, by linearization")
ATTACKS.add("cw", "rltool.attacks.minimum:CarliniWagner", "the smallest perturbation, by Adam (Carlini & Wagner)")
ATTACKS.add("strongest", "rltool.attacks.strongest:Strongest", "a fixed cascade of the strongest of these")
