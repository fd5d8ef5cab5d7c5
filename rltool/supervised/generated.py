"""Examples that a generator made, for a classifier to learn from beside real ones."""

from __future__ import annotations

from rltool.data.examples import Dataset, Part
from rltool.errors import UserError
from rltool.training.run import Run


def generated_examples(run: str, data: Dataset, n: int, seed: int) -> Part:
    """Draw labeled examples from the generator of a run.

    Args:
        run: A GAN's run; its learner has `labeled_samples`.
        data: What they are to be like.
        n: How many.
        seed: Decides which.

    Raises:
        UserError: There is no such run, it makes no labeled examples, or other ones than the data has.
    """
    generator = Run(run).agent
    if not hasattr(generator, "labeled_samples"):
        raise UserError(f"{run} generates no examples with labels; take a GAN's run, as of: rltool train cgan digits")
    shape, classes = data.train.x.shape[1:], data.classes
    if tuple(generator.shape) != shape or len(generator.dataset.classes) != len(classes):
        made = f"{tuple(generator.shape)} of {len(generator.dataset.classes)} classes"
        raise UserError(f"{run} makes examples {made}, but those of {data.name} are {shape} of {len(classes)}")
    return Part(*generator.labeled_samples(n, seed))
