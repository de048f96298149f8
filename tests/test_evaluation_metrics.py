"""Every metric is exact where there is a closed form, and moves the right way on planted faults."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from nuwaxl.evaluation import metrics
from nuwaxl.evaluation.distances import (
    Distances,
    block_features,
    distances,
    frechet_distance,
    kernel_distance,
)
from nuwaxl.evaluation.features import Readers, film_features, load_frame_network
from nuwaxl.evaluation.measuring import FilmMeasures, measure_film
from nuwaxl.evaluation.motion import best_shift, match_curve, scroll_speeds
from nuwaxl.evaluation.pixels import soften, to_tensor, to_uint8
from nuwaxl.evaluation.probe import Probe, Reading, class_names
from nuwaxl.evaluation.rows import render_film
from nuwaxl.evaluation.scoring import Effort, Score, score_row
from nuwaxl.evaluation.stories import KnownFilm, known_film
from nuwaxl.toon import ACTIONS, Scene, Story
from nuwaxl.toon.render import render

FPS = 8.0
EFFORT = Effort(0.0, 0, 0)


def two_scenes(action: str = "run", actor: str = "dog") -> KnownFilm:
    """Two seconds on the meadow, then two in the desert."""
    scenes = [
        Scene(actor, background, "day", action, "right", start, 2.0)
        for background, start in (("meadow", 0.0), ("desert", 2.0))
    ]
    return known_film(Story(tuple(scenes), 4.0), 32, FPS)


FILM = two_scenes()
FRAMES = np.stack(list(render_film(FILM)))
BOUNDARIES = tuple(range(0, 32, 5))


# ---- Faults -----------------------------------------------------------------------------------


def none(frames: np.ndarray) -> np.ndarray:
    return frames


def blur(frames: np.ndarray) -> np.ndarray:
    return to_uint8(soften(to_tensor(frames), 4))


def shuffle(frames: np.ndarray) -> np.ndarray:
    return frames[np.random.default_rng(0).permutation(len(frames))]


def colour_drift(frames: np.ndarray) -> np.ndarray:
    gain = np.linspace(1.0, 0.2, len(frames))[:, None, None, None]
    return (frames * gain).astype(np.uint8)


def seam_jump(frames: np.ndarray) -> np.ndarray:
    parts = [np.roll(frames[b : b + 5], 9 * i, axis=2) for i, b in enumerate(BOUNDARIES)]
    return np.concatenate(parts)


def flickering(frames: np.ndarray) -> np.ndarray:
    gain = np.where(np.arange(len(frames)) % 2, 0.9, 1.0)[:, None, None, None]
    return (frames * gain).astype(np.uint8)


def wrong_actor(frames: np.ndarray) -> np.ndarray:
    """A car in place of the dog in the last quarter: the second half of the second scene."""
    last = [render(replace(state, actor="car")) for state in FILM.states[-8:]]
    return np.concatenate([frames[:-8], np.stack(last)])


def late_cut(frames: np.ndarray) -> np.ndarray:
    """The first scene holds on for three frames of the second."""
    return np.concatenate([frames[:16], frames[13:16], frames[19:]])


# ---- Closed forms -----------------------------------------------------------------------------


def test_frechet_distance_of_a_shift_is_its_square() -> None:
    samples = np.random.default_rng(0).normal(size=(50, 3))
    assert frechet_distance(samples, samples + np.array([1.0, 2.0, 0.0])) == pytest.approx(5.0)


def test_frechet_distance_of_scaled_sets_is_that_of_their_deviations() -> None:
    samples = np.array([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]])
    deviation = samples.std(axis=0, ddof=1)
    expected = ((deviation - 3 * deviation) ** 2).sum()
    assert frechet_distance(samples, 3 * samples) == pytest.approx(expected)


@pytest.mark.parametrize("count", [5, 40])
def test_frechet_distance_is_torchmetrics_fid_of_the_same_features(count: int) -> None:
    """With fewer samples than dimensions, and with more."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.AvgPool2d(2), torch.nn.Flatten())
    network.num_features = 12  # pyright: ignore
    fid = FrechetInceptionDistance(network, normalize=True, input_img_size=(3, 4, 4))
    fid.set_dtype(torch.float64)
    sides = [torch.rand(count, 3, 4, 4, dtype=torch.float64) * scale for scale in (1.0, 0.7)]
    for side, is_real in zip(sides, (True, False), strict=True):
        fid.update(side, real=is_real)
    features = [network(side).numpy() for side in sides]
    assert frechet_distance(*features) == pytest.approx(float(fid.compute()), rel=1e-6)


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
    speeds = scroll_speeds(np.stack(list(render_film(film))), FPS, film.actor)
    assert np.median(speeds) == pytest.approx(-ACTIONS[action].speed, abs=1.0)


def test_known_film_says_where_scenes_are() -> None:
    assert FILM.cuts == FILM.visible_cuts == (16,)
    assert FILM.scenes == ((0, 16), (16, 32))
    assert FILM.pairs_inside().sum() == 30
    assert set(FILM.speeds) == {28.0}
    assert FILM.storyline.prompt_at(1.99) != FILM.storyline.prompt_at(2.0)


# ---- Planted faults ---------------------------------------------------------------------------


class TemplateProbe(Probe):
    """Reads frames of `FILM` by the nearest of its renders with other actors, places and times.

    Its features are the random ones of an untrained probe.
    """

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__()
        self.at = 0

    def read(self, frames: np.ndarray, scenes: object = None) -> Reading:
        names = class_names()
        classes = {name: FILM.labels[name][self.at :][: len(frames)].copy() for name in names}
        choices = {
            "actor": ("dog", "car"),
            "background": ("meadow", "desert"),
            "time_of_day": ("day", "night"),
        }
        for row, frame in enumerate(frames):
            state = FILM.states[self.at + row]
            for name, values in choices.items():
                off = [
                    np.abs(render(replace(state, **{name: value})).astype(int) - frame).mean()
                    for value in values
                ]
                classes[name][row] = names[name].index(values[int(np.argmin(off))])
        self.at += len(frames)
        features, _, position = self.read_frames(frames)
        return Reading(features.numpy(), classes, position.numpy())


@cache
def readers() -> Readers:
    network = load_frame_network("efficientnet", torch.device("cpu"))
    return Readers(TemplateProbe().eval(), {"efficientnet": network})


@cache
def reference() -> tuple:
    films = [two_scenes("walk"), two_scenes("jump")]
    return tuple(film_features(render_film(film), readers()) for film in films)


FAULTS = {
    fault.__name__: fault
    for fault in (
        *(none, blur, shuffle, colour_drift, seam_jump, flickering),
        *(wrong_actor, late_cut),
    )
}


@cache
def measured(fault: str) -> FilmMeasures:
    probe = readers().probe
    assert isinstance(probe, TemplateProbe)
    probe.at = 0
    return measure_film(FAULTS[fault](FRAMES), FILM, readers(), boundaries=BOUNDARIES)


@cache
def score(fault: str) -> Score:
    return score_row([measured(fault)], reference(), EFFORT)


@cache
def apart(fault: str, space: str) -> Distances:
    """With blocks of four frames, of which there are eight."""
    return distances(
        [measured(fault).features.frames[space]],
        [film.frames[space] for film in reference()],
        drift_share=metrics.DRIFT_SHARE,
        block=4,
    )


def test_renders_score_as_faultless() -> None:
    faultless = score("none").flat()
    assert faultless["motion_error"] < 1.0
    assert faultless["seam_ratio"] == pytest.approx(1.0, abs=0.1)
    assert faultless["cut_error"] == faultless["drift.all"] == 0
    for name in ("accuracy.actor", "accuracy.background", "accuracy.all", "identity_kept"):
        assert faultless[name] == 1.0


@pytest.mark.parametrize(
    ("metric", "fault", "factor"),
    [
        ("seam_ratio", "seam_jump", 1.3),
        ("flicker", "flickering", 3.0),
        ("motion_error", "shuffle", 5.0),
        ("motion_error", "seam_jump", 5.0),
    ],
)
def test_error_rises_on_a_planted_fault(metric: str, fault: str, factor: float) -> None:
    assert score(fault).flat()[metric] > factor * score("none").flat()[metric]


@pytest.mark.parametrize(
    ("metric", "fault", "value"),
    [
        ("accuracy.actor", "wrong_actor", 0.75),
        ("accuracy.all", "wrong_actor", 0.75),
        ("accuracy.background", "wrong_actor", 1.0),
        ("accuracy.background", "late_cut", 29 / 32),
        ("cut_error", "late_cut", 3.0),
        ("drift.actor", "wrong_actor", 1.0),
        ("drift.all", "wrong_actor", 1.0),
        ("drift.background", "wrong_actor", 0.0),
    ],
)
def test_a_planted_fault_is_counted_exactly(metric: str, fault: str, value: float) -> None:
    assert score(fault).flat()[metric] == pytest.approx(value)


def test_an_actor_who_becomes_another_loses_his_identity() -> None:
    """In one scene of two, for half of it: a quarter of all frames."""
    assert score("wrong_actor").identity_kept == 0.75
    parts = score("wrong_actor").accuracy_over_time["actor"]
    assert parts == [1.0] * 12 + [0.0] * 4


@pytest.mark.parametrize("space", ["probe", "efficientnet"])
@pytest.mark.parametrize(
    ("metric", "fault"),
    [
        ("avg_fd", "blur"),
        ("avg_fd", "colour_drift"),
        ("kid", "blur"),
        ("kid", "colour_drift"),
        ("block_fd", "blur"),
        ("block_fd", "shuffle"),
        ("block_fd", "colour_drift"),
    ],
)
def test_distance_rises_on_a_planted_fault(metric: str, fault: str, space: str) -> None:
    assert getattr(apart(fault, space), metric) > 1.2 * getattr(apart("none", space), metric)


def test_features_of_real_pictures_tell_a_wrong_actor() -> None:
    """An untrained probe's do not have to."""
    wrong, right = apart("wrong_actor", "efficientnet"), apart("none", "efficientnet")
    assert wrong.avg_fd > 1.1 * right.avg_fd
    assert wrong.kid > 1.1 * right.kid
    assert wrong.block_fd_by_position[0] == pytest.approx(right.block_fd_by_position[0])
    assert wrong.block_fd_by_position[-1] > 1.3 * right.block_fd_by_position[-1]  # pyright: ignore


@pytest.mark.parametrize("space", ["probe", "efficientnet"])
def test_colour_drift_shows_as_distance_that_grows(space: str) -> None:
    drifted, right = apart("colour_drift", space), apart("none", space)
    assert drifted.drift_fd > right.drift_fd + 0.2 * right.avg_fd
    first, last = (
        drifted.block_fd_by_position[part] / right.block_fd_by_position[part]  # pyright: ignore
        for part in (0, -1)
    )
    assert last > 1.1 * first


def test_frames_that_stand_still_miss_the_whole_speed() -> None:
    still = np.repeat(FRAMES[:1], 16, axis=0)
    errors = metrics.motion_error(still, FILM.speeds[:16], FPS, FILM.actor[:16])
    assert errors == pytest.approx(28.0)


def test_order_within_a_block_matters_to_its_features_only_by_change() -> None:
    real = measured("none").features.frames["probe"]
    plain, shuffled = real[:16], real[:16][::-1]
    assert np.allclose(block_features(plain), block_features(shuffled), atol=1e-5)
    mixed = real[:16][np.random.default_rng(0).permutation(16)]
    dim = real.shape[1]
    assert np.allclose(block_features(plain)[:, :dim], block_features(mixed)[:, :dim], atol=1e-5)
    assert block_features(mixed)[:, dim:].mean() > 1.2 * block_features(plain)[:, dim:].mean()
