"""Every metric is exact where there is a closed form, and moves the right way on planted faults."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from nuwaxl.evaluation import metrics
from nuwaxl.evaluation.distances import (
    avg_fd,
    block_fd,
    block_fd_by_position,
    block_features,
    frechet_distance,
    kernel_distance,
)
from nuwaxl.evaluation.motion import best_shift, match_curve, scroll_speeds
from nuwaxl.evaluation.pixels import soften, to_tensor, to_uint8
from nuwaxl.evaluation.probe import Probe
from nuwaxl.evaluation.rows import render_film
from nuwaxl.evaluation.stories import KnownFilm, known_film
from nuwaxl.toon import ACTIONS, Scene, Story

FPS = 8.0


def two_scenes(action: str = "run", actor: str = "dog") -> KnownFilm:
    """Two seconds on the meadow, then two in the desert."""
    scenes = [
        Scene(actor, background, "day", action, "right", start, 2.0)
        for background, start in (("meadow", 0.0), ("desert", 2.0))
    ]
    return known_film(Story(tuple(scenes), 4.0), 32, FPS)


FILM = two_scenes()
FRAMES = render_film(FILM)
BOUNDARIES = tuple(range(0, 32, 5))


def fault_blur(frames: np.ndarray) -> np.ndarray:
    return to_uint8(soften(to_tensor(frames), 4))


def fault_shuffle(frames: np.ndarray) -> np.ndarray:
    return frames[np.random.default_rng(0).permutation(len(frames))]


def fault_colour_drift(frames: np.ndarray) -> np.ndarray:
    gain = np.linspace(1.0, 0.5, len(frames))[:, None, None, None]
    return (frames * gain).astype(np.uint8)


def fault_seam_jump(frames: np.ndarray) -> np.ndarray:
    parts = [np.roll(frames[b : b + 5], 9 * i, axis=2) for i, b in enumerate(BOUNDARIES)]
    return np.concatenate(parts)


def fault_flicker(frames: np.ndarray) -> np.ndarray:
    gain = np.where(np.arange(len(frames)) % 2, 0.9, 1.0)[:, None, None, None]
    return (frames * gain).astype(np.uint8)


def features(frames: np.ndarray) -> np.ndarray:
    torch.manual_seed(0)
    return Probe().eval().read_frames(frames)[0].numpy()


# ---- Closed forms -----------------------------------------------------------------------------


def test_frechet_distance_of_a_shift_is_its_square() -> None:
    samples = np.random.default_rng(0).normal(size=(50, 3))
    assert frechet_distance(samples, samples + np.array([1.0, 2.0, 0.0])) == pytest.approx(5.0)


def test_frechet_distance_of_scaled_sets_is_that_of_their_deviations() -> None:
    samples = np.array([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]])
    deviation = samples.std(axis=0, ddof=1)
    expected = ((deviation - 3 * deviation) ** 2).sum()
    assert frechet_distance(samples, 3 * samples) == pytest.approx(expected)


def test_kernel_distance_of_two_points_each_is_the_sum_of_kernels() -> None:
    first, second = np.array([[1.0], [2.0]]), np.array([[0.0], [3.0]])
    within = (1 * 2 + 1) ** 3 + (0 * 3 + 1) ** 3
    between = np.mean([(x * y + 1) ** 3 for x in (1, 2) for y in (0, 3)])
    assert kernel_distance(first, second) == pytest.approx(within - 2 * between)


def test_kernel_distance_is_zero_on_average_within_one_distribution() -> None:
    draw = np.random.default_rng(0).normal
    values = [kernel_distance(draw(size=(40, 4)), draw(size=(40, 4))) for _ in range(60)]
    error = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values)) < 3 * error
    assert kernel_distance(draw(size=(40, 4)), draw(size=(40, 4)) + 1) > 10 * np.std(values)


def test_accuracy_counts_only_what_can_be_told() -> None:
    known = {"actor": np.array([1, 1, 2, 2]), "direction": np.array([0, -1, 1, -1])}
    read = {"actor": np.array([1, 0, 2, 2]), "direction": np.array([1, 1, 1, 1])}
    right = metrics.right_per_frame(read, known)
    accuracy = metrics.caption_accuracy(right)
    assert accuracy == {"actor": 0.75, "direction": 0.5, "all": 0.5}


def test_drift_is_what_is_lost_between_first_and_last_part() -> None:
    right = np.array([1.0] * 3 + [np.nan] * 14 + [0.0, 0.0, 1.0])
    assert metrics.drift(right) == pytest.approx(2 / 3)
    assert metrics.drift(np.full(20, np.nan)) is None


def test_identity_is_that_of_most_frames_of_a_scene() -> None:
    actor = np.array([3, 3, 5, 3, 7, 7])
    assert metrics.identity_kept(actor, [(0, 4), (4, 6)]) == pytest.approx(5 / 6)


@pytest.mark.parametrize("late", [-3, 0, 2])
def test_cut_error_is_how_late_or_early_a_cut_is(late: int) -> None:
    values = np.zeros((40, 2))
    values[20 + late :] = 1.0
    assert metrics.cut_errors(values, [20]) == [abs(late)]


@pytest.mark.parametrize("shift", [-11, 0, 7])
def test_best_shift_finds_a_whole_shift(shift: int) -> None:
    wide = np.random.default_rng(0).integers(0, 256, (16, 120, 3), np.uint8)
    first, second = wide[:, 30:90], wide[:, 30 + shift : 90 + shift]
    assert best_shift(match_curve(first, second)) == pytest.approx(shift, abs=0.2)


def test_a_flat_frame_has_no_shift() -> None:
    flat = np.full((8, 60, 3), 7, np.uint8)
    assert best_shift(match_curve(flat, flat)) == 0.0


# ---- Real renders -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("actor", "background", "action"),
    [
        ("dog", "meadow", "walk"),
        ("dog", "meadow", "run"),
        ("dog", "beach", "jump"),
        ("dog", "city", "wait"),
        ("bus", "city", "drive"),
        ("rocket", "space", "fly"),
        ("shark", "ocean", "swim"),
        ("sailboat", "ocean", "sail"),
    ],
)
def test_scroll_of_renders_is_the_speed_of_the_action(
    actor: str, background: str, action: str
) -> None:
    time_of_day = "night" if background == "space" else "day"
    scene = Scene(actor, background, time_of_day, action, "left", 0.0, 2.0)
    film = known_film(Story((scene,), 2.0), 12, FPS)
    speeds = scroll_speeds(render_film(film), FPS, film.actor)
    assert np.median(speeds) == pytest.approx(-ACTIONS[action].speed, abs=1.0)


def test_known_film_says_where_scenes_are() -> None:
    assert FILM.cuts == FILM.visible_cuts == (16,)
    assert FILM.scenes == ((0, 16), (16, 32))
    assert FILM.pairs_inside().sum() == 30
    assert set(FILM.speeds) == {28.0}
    assert FILM.storyline.prompt_at(1.99) != FILM.storyline.prompt_at(2.0)


def test_renders_score_as_faultless() -> None:
    inside = FILM.pairs_inside()
    error = metrics.motion_error(FRAMES, FILM.speeds, FILM.scenes, FPS, FILM.actor)
    ratio = metrics.seam_ratio(FRAMES, BOUNDARIES, inside)
    assert error is not None
    assert error < 1.0
    assert ratio == pytest.approx(1.0, abs=0.1)
    assert metrics.cut_errors(features(FRAMES), FILM.cuts) == [0]


# ---- Planted faults ---------------------------------------------------------------------------

REFERENCE = [features(render_film(two_scenes("walk"))), features(render_film(two_scenes("jump")))]
REAL = features(FRAMES)


def motion_of(frames: np.ndarray) -> float:
    error = metrics.motion_error(frames, FILM.speeds, FILM.scenes, FPS, FILM.actor)
    assert error is not None
    return error


def flicker_of(frames: np.ndarray) -> float:
    value = metrics.flicker(frames, FILM.pairs_inside(), FILM.actor)
    assert value is not None
    return value


def seam_of(frames: np.ndarray) -> float:
    value = metrics.seam_ratio(frames, BOUNDARIES, FILM.pairs_inside())
    assert value is not None
    return value


def avg_fd_of(frames: np.ndarray) -> float:
    return avg_fd([features(frames)], REFERENCE)


def kid_of(frames: np.ndarray) -> float:
    return kernel_distance(features(frames), np.concatenate(REFERENCE))


def block_fd_of(frames: np.ndarray) -> float:
    value = block_fd([features(frames)], REFERENCE, 4)
    assert value is not None
    return value


def late_block_fd_of(frames: np.ndarray) -> float:
    value = block_fd_by_position([features(frames)], REFERENCE, 4, 2)[-1]
    assert value is not None
    return value


@pytest.mark.parametrize(
    ("metric", "fault", "factor"),
    [
        (avg_fd_of, fault_blur, 1.2),
        (avg_fd_of, fault_colour_drift, 1.2),
        (kid_of, fault_blur, 1.2),
        (kid_of, fault_colour_drift, 1.2),
        (block_fd_of, fault_shuffle, 1.2),
        (late_block_fd_of, fault_colour_drift, 1.2),
        (seam_of, fault_seam_jump, 1.3),
        (flicker_of, fault_flicker, 3.0),
        (motion_of, fault_shuffle, 5.0),
        (motion_of, fault_seam_jump, 5.0),
    ],
)
def test_metric_rises_on_a_planted_fault(
    metric: Callable[[np.ndarray], float],
    fault: Callable[[np.ndarray], np.ndarray],
    factor: float,
) -> None:
    assert metric(fault(FRAMES)) > factor * metric(FRAMES)


def test_frames_that_stand_still_miss_the_whole_speed() -> None:
    still = np.repeat(FRAMES[:1], 32, axis=0)
    assert motion_of(still) == pytest.approx(28.0)


def test_order_within_a_block_matters_to_its_features_only_by_change() -> None:
    plain, shuffled = REAL[:16], REAL[:16][::-1]
    assert np.allclose(block_features(plain), block_features(shuffled), atol=1e-5)
    mixed = REAL[:16][np.random.default_rng(0).permutation(16)]
    dim = REAL.shape[1]
    assert np.allclose(block_features(plain)[:, :dim], block_features(mixed)[:, :dim], atol=1e-5)
    assert block_features(mixed)[:, dim:].mean() > 1.2 * block_features(plain)[:, dim:].mean()


def test_colour_drift_shows_as_distance_that_grows() -> None:
    drifted = features(fault_colour_drift(FRAMES))
    reference = np.concatenate(REFERENCE)
    assert frechet_distance(drifted[-8:], reference) > 1.2 * frechet_distance(
        drifted[:8], reference
    )
