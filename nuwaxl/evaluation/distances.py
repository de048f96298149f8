"""Distances between two sets of features: Frechet and kernel.

Knows vectors, not which network they come from; with Inception's they would be FID and KID.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

BLOCK = 16
"""Frames in a block, as in the paper's B-FVD-16."""


def frechet_distance(
    first: Float[np.ndarray, "_ dim"], second: Float[np.ndarray, "_ dim"]
) -> float:
    """Squared Frechet distance of the normal distributions that fit two sets best.

        |mean_1 - mean_2|^2 + tr(C_1 + C_2 - 2 (C_1 C_2)^(1/2))

    (Heusel et al. 2017, eq. 6.) Biased upwards when a set is small: compare only values of equal
    numbers of samples.

    Args:
        first: at least two samples.
        second: at least two samples.
    """
    shift = first.mean(axis=0) - second.mean(axis=0)
    covariance_1, covariance_2 = (
        np.atleast_2d(np.cov(x, rowvar=False)).astype(np.float64) for x in (first, second)
    )
    # tr (C1 C2)^(1/2) is that of the symmetric C1^(1/2) C2 C1^(1/2), whose roots are real.
    values, vectors = np.linalg.eigh(covariance_1)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    mixed = np.linalg.eigvalsh(root @ covariance_2 @ root)
    trace = np.trace(covariance_1) + np.trace(covariance_2) - 2 * np.sqrt(mixed.clip(min=0)).sum()
    return float(max(0.0, shift @ shift + trace))


def kernel_distance(first: Float[np.ndarray, "_ dim"], second: Float[np.ndarray, "_ dim"]) -> float:
    """Unbiased squared maximum mean discrepancy under k(x, y) = (x.y / dim + 1)^3.

    (Binkowski et al. 2018, KID, over all pairs instead of random subsets.) Zero on average, and so
    sometimes negative, when both sets come from one distribution.

    Args:
        first: at least two samples.
        second: at least two samples.
    """

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (x.astype(np.float64) @ y.T.astype(np.float64) / x.shape[1] + 1.0) ** 3

    def within(x: np.ndarray) -> float:
        values, count = kernel(x, x), len(x)
        return (values.sum() - np.trace(values)) / (count * (count - 1))

    return float(within(first) + within(second) - 2 * kernel(first, second).mean())


def block_features(
    features: Float[np.ndarray, "frames dim"], block: int = BLOCK
) -> Float[np.ndarray, "blocks both"]:
    """Features of blocks of consecutive frames: their mean, and their mean change.

    The second half makes the order within a block matter. A rest shorter than a block is left out.

    Args:
        features: of one film's frames.
        block: frames in a block.
    """
    num_blocks = len(features) // block
    blocks = features[: num_blocks * block].reshape(num_blocks, block, -1)
    change = np.abs(np.diff(blocks, axis=1)).mean(axis=1)
    return np.concatenate([blocks.mean(axis=1), change], axis=1)


def avg_fd(
    films: Sequence[Float[np.ndarray, "_ dim"]],
    reference: Sequence[Float[np.ndarray, "_ dim"]],
) -> float:
    """Frechet distance over all frames: the paper's Avg-FID, on other features.

    Args:
        films: features of each film's frames.
        reference: the same of real films.
    """
    return frechet_distance(np.concatenate(list(films)), np.concatenate(list(reference)))


def block_fd(
    films: Sequence[Float[np.ndarray, "_ dim"]],
    reference: Sequence[Float[np.ndarray, "_ dim"]],
    block: int = BLOCK,
) -> float | None:
    """Frechet distance over all blocks: the paper's B-FVD-16, on other features.

    Args:
        films: features of each film's frames.
        reference: the same of real films.
        block: frames in a block.

    Returns:
        None when there are fewer than two blocks on either side.
    """
    sides = [
        np.concatenate([block_features(film, block) for film in x]) for x in (films, reference)
    ]
    if min(len(side) for side in sides) < 2:
        return None
    return frechet_distance(*sides)


def block_fd_by_position(
    films: Sequence[Float[np.ndarray, "_ dim"]],
    reference: Sequence[Float[np.ndarray, "_ dim"]],
    block: int = BLOCK,
    num_positions: int = 4,
) -> list[float | None]:
    """`block_fd` of each of `num_positions` equal parts of the films, from first to last.

    Each part is compared with all blocks of the reference, so that the parts may be compared with
    one another: real films do not change with time.

    Args:
        films: features of each film's frames.
        reference: the same of real films.
        block: frames in a block.
        num_positions: parts.
    """
    parts = []
    everything = [block_features(film, block) for film in reference]
    for position in range(num_positions):
        chosen = []
        for film in films:
            blocks = block_features(film, block)
            edges = np.linspace(0, len(blocks), num_positions + 1).round().astype(int)
            chosen.append(blocks[edges[position] : edges[position + 1]])
        there, real = np.concatenate(chosen), np.concatenate(everything)
        enough = len(there) >= 2 and len(real) >= 2
        parts.append(frechet_distance(there, real) if enough else None)
    return parts
