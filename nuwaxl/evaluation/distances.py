"""Distances between two sets of features: Frechet and kernel.

Knows vectors, not which network they come from; with Inception's they are FID and KID.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

BLOCK = 16
"""Frames in a block, as in the paper's B-FVD-16."""

POSITIONS = 4
"""Equal parts of a film for which blocks are also compared apart."""

Features = Float[np.ndarray, "_ dim"]


@dataclass(frozen=True)
class Distances:
    """How far films are from real ones in one space of features."""

    avg_fd: float
    """Frechet distance of all frames: the paper's Avg-FID, on other features."""
    kid: float
    """Kernel distance of the same."""
    block_fd: float | None
    """Frechet distance of blocks of 16 frames: the paper's B-FVD-16, on other features; None with
    fewer than two blocks."""
    block_fd_by_position: list[float | None]
    """The same for each quarter of the films."""
    drift_fd: float
    """Frechet distance of the last 15 % of frames less that of the first 15 %, each to the same
    part of the real films."""


def frechet_distance(first: Features, second: Features) -> float:
    """Squared Frechet distance of the normal distributions that fit two sets best.

        |mean_1 - mean_2|^2 + tr(C_1 + C_2 - 2 (C_1 C_2)^(1/2))

    (Heusel et al. 2017, eq. 6.) Biased upwards when a set is small: compare only values of equal
    numbers of samples.

    Args:
        first: at least two samples.
        second: at least two samples.
    """
    shift = first.mean(axis=0, dtype=np.float64) - second.mean(axis=0, dtype=np.float64)
    centred_1, centred_2 = (
        (x - x.mean(axis=0, dtype=np.float64)) / np.sqrt(len(x) - 1) for x in (first, second)
    )
    trace = (centred_1**2).sum() + (centred_2**2).sum() - 2 * _trace_of_root(centred_1, centred_2)
    return float(max(0.0, shift @ shift + trace))


def _trace_of_root(first: Features, second: Features) -> float:
    """Trace of (C_1 C_2)^(1/2), C = X^T X being the covariances of two centred, scaled sets X.

    The roots of the eigenvalues of C_1 C_2 are the singular values of X_1 X_2^T, which is small
    where there are fewer samples than dimensions.
    """
    if min(len(first), len(second)) < first.shape[1]:
        return float(np.linalg.svd(first @ second.T, compute_uv=False).sum())
    # It is that of the symmetric C_1^(1/2) C_2 C_1^(1/2), whose eigenvalues are real.
    values, vectors = np.linalg.eigh(first.T @ first)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    mixed = np.linalg.eigvalsh(root @ (second.T @ second) @ root)
    return float(np.sqrt(mixed.clip(min=0)).sum())


def kernel_distance(first: Features, second: Features) -> float:
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


def thinned(features: Features, at_most: int = 2048) -> Features:
    """Every n-th of many samples: the kernel distance grows with the square of their number.

    Args:
        features: in any order.
        at_most: samples to keep.
    """
    return features[:: -(-len(features) // at_most)]


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


def pooled_distance(films: Sequence[Features], reference: Sequence[Features]) -> float | None:
    """Frechet distance over the samples of all films.

    Args:
        films: samples of each film, frames or blocks.
        reference: the same of real films.

    Returns:
        None when there are fewer than two samples on either side.
    """
    sides = [np.concatenate(list(side)) for side in (films, reference)]
    return None if min(len(side) for side in sides) < 2 else frechet_distance(*sides)


def distance_by_position(
    films: Sequence[Features], reference: Sequence[Features], num_positions: int = POSITIONS
) -> list[float | None]:
    """`pooled_distance` of each of `num_positions` equal parts of the films, first to last.

    Each part is compared with the same part of the reference, which shows the same scenes.

    Args:
        films: samples of each film, in the order of time.
        reference: the same of real films.
        num_positions: parts.
    """
    parts = []
    for position in range(num_positions):
        chosen: list[list[Features]] = [[], []]
        for kept, side in zip(chosen, (films, reference), strict=True):
            for film in side:
                edges = np.linspace(0, len(film), num_positions + 1).round().astype(int)
                kept.append(film[edges[position] : edges[position + 1]])
        parts.append(pooled_distance(*chosen))
    return parts


def distances(
    films: Sequence[Features],
    reference: Sequence[Features],
    *,
    drift_share: float,
    block: int = BLOCK,
) -> Distances:
    """All distances in one space of features.

    Args:
        films: features of each film's frames, all of one length.
        reference: the same of real films of that length.
        drift_share: of a film, at its start and at its end, that is compared for drift.
        block: frames in a block.
    """
    made, real = np.concatenate(list(films)), np.concatenate(list(reference))
    length = max(2, round(drift_share * len(films[0])))
    first, last = (
        frechet_distance(*(np.concatenate([film[part] for film in x]) for x in (films, reference)))
        for part in (slice(length), slice(-length, None))
    )
    made_blocks, real_blocks = (
        [block_features(film, block) for film in side] for side in (films, reference)
    )
    return Distances(
        avg_fd=frechet_distance(made, real),
        kid=kernel_distance(thinned(made), thinned(real)),
        block_fd=pooled_distance(made_blocks, real_blocks),
        block_fd_by_position=distance_by_position(made_blocks, real_blocks),
        drift_fd=last - first,
    )
