"""Curvature of a loss: the ends of its Hessian's spectrum, without the Hessian."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch


def hessian_extremes(
    loss_fn: Callable[[], torch.Tensor], parameters: Iterable[torch.Tensor], steps: int = 60, seed: int = 0
) -> tuple[float, float]:
    """Smallest and largest eigenvalue of the Hessian of a loss (Lanczos, 1950; Lecture 2: minimum or saddle).

    Each step is one product of the Hessian with a vector, by differentiating the gradient again (Pearlmutter, 1994):
    the cost of a few gradients, and no n x n matrix. Both ends are found first; what lies between is not.

    Args:
        loss_fn: The loss, a scalar; called once.
        parameters: What it is differentiated by.
        steps: Products at most; as many as there are parameters give the exact spectrum.
        seed: Of the direction to start in.

    Returns:
        Smallest and largest eigenvalue. Both lie within the true spectrum.

    Example:
        >>> x = torch.ones(2, requires_grad=True)
        >>> smallest, largest = hessian_extremes(lambda: x[0] ** 2 - 3 * x[1] ** 2, [x])
        >>> round(smallest, 3), round(largest, 3)
        (-6.0, 2.0)
    """
    parameters = [p for p in parameters if p.requires_grad]
    gradient = _flat(torch.autograd.grad(loss_fn(), parameters, create_graph=True, materialize_grads=True))
    if not gradient.requires_grad:  # The loss is linear.
        return 0.0, 0.0

    def product(vector: torch.Tensor) -> torch.Tensor:
        return _flat(torch.autograd.grad(gradient, parameters, vector, retain_graph=True, materialize_grads=True))

    generator = torch.Generator().manual_seed(seed)
    vector = torch.randn(len(gradient), generator=generator).to(gradient)
    basis = [vector / torch.linalg.vector_norm(vector)]
    diagonal: list[float] = []
    off_diagonal: list[float] = []
    while True:
        image = product(basis[-1])
        diagonal.append(float(image @ basis[-1]))
        # Twice against all of them: in floating point the three-term recurrence alone loses orthogonality.
        known = torch.stack(basis)
        for _ in range(2):
            image = image - known.T @ (known @ image)
        norm = float(torch.linalg.vector_norm(image))
        scale = max(map(abs, diagonal + off_diagonal))
        if len(basis) == min(steps, len(gradient)) or norm <= torch.finfo(image.dtype).eps * scale:
            break  # The second is an invariant subspace: the next vector would be noise.
        off_diagonal.append(norm)
        basis.append(image / norm)
    eigenvalues = np.linalg.eigvalsh(np.diag(diagonal) + np.diag(off_diagonal, 1) + np.diag(off_diagonal, -1))
    return float(eigenvalues[0]), float(eigenvalues[-1])


def _flat(tensors: Iterable[torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])
