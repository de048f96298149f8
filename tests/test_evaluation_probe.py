from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_vae

from nuwaxl.evaluation.probe import WINDOW, Probe, class_names
from nuwaxl.evaluation.probe_training import (
    ProbeConfig,
    draw_windows,
    labels_of,
    rebuild,
    train_probe,
)
from nuwaxl.toon import Scene

NAMES = class_names()


def test_windows_show_what_their_labels_say() -> None:
    windows = draw_windows(np.random.default_rng(0), 3)
    assert windows.frames.shape == (3, WINDOW, 128, 128, 3)
    assert set(windows.labels) == set(NAMES)
    assert ((windows.position > 0) & (windows.position < 1)).all()
    again = draw_windows(np.random.default_rng(0), 3)
    assert np.array_equal(again.frames, windows.frames)


def test_a_hidden_direction_has_no_label() -> None:
    def direction(actor: str, action: str, *, single: bool = False) -> int:
        scene = Scene(actor, "meadow", "day", action, "right", 0.0, 4.0)
        return labels_of(scene, single=single)["direction"]

    assert direction("dog", "wait") == 1
    assert direction("robot", "wait") == -1  # looks at the viewer
    assert direction("robot", "walk") == 1
    assert direction("robot", "walk", single=True) == -1


def test_reading_covers_every_frame_and_stays_within_scenes() -> None:
    torch.manual_seed(0)
    frames = draw_windows(np.random.default_rng(0), 1, 14).frames[0]
    reading = Probe().read(frames, [(0, 10), (10, 14)])
    assert reading.features.shape == (14, 128)
    assert ((reading.position > 0) & (reading.position < 128)).all()
    for name in ("actor", "background", "time_of_day"):
        assert ((reading.classes[name] >= 0) & (reading.classes[name] < len(NAMES[name]))).all()
    for name in ("action", "direction"):  # the second scene is shorter than a window
        assert (reading.classes[name][:10] >= 0).all()
        assert (reading.classes[name][10:] == -1).all()


def test_frames_of_another_size_are_read_as_well() -> None:
    small = np.zeros((2, 16, 16, 3), np.uint8)
    assert Probe().read(small).features.shape == (2, 128)


def test_a_saved_probe_reads_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    probe = Probe()
    frames = draw_windows(np.random.default_rng(0), 1).frames[0]
    probe.save(tmp_path / "probe", {"accuracy": {"renders": {"actor": 0.5}}})
    loaded = Probe.load(tmp_path / "probe")
    assert np.array_equal(loaded.read(frames).features, probe.read(frames).features)
    assert Probe.facts(tmp_path / "probe")["accuracy"] == {"renders": {"actor": 0.5}}


def test_a_folder_without_a_probe_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`probe` must be a folder that holds a probe"):
        Probe.load(tmp_path)
    Probe().save(tmp_path)
    facts = (tmp_path / "probe.json").read_text().replace('"dog"', '"dodo"')
    (tmp_path / "probe.json").write_text(facts)
    with pytest.raises(ValueError, match="train it again"):
        Probe.load(tmp_path)


def test_training_writes_the_probe_and_measures_it(tmp_path: Path) -> None:
    rows: list[dict[str, float]] = []
    config = ProbeConfig(
        num_steps=3,
        batch_size=8,
        num_rebuilt=2,
        num_windows=2,
        num_window_steps=1,
        num_test=2,
    )
    accuracy = train_probe(
        tmp_path / "probe", config, vae=tiny_vae(), on_row=lambda row: rows.append(dict(row))
    )
    assert set(accuracy) == {"renders", "held_out", "decoded"}
    assert set(accuracy["renders"]) <= set(NAMES)
    assert rows[0]["step"] == 3
    # Chance is log 40 + log 16 + log 3 + log 2 = 8.2, and the position's error on top.
    assert 4 < rows[0]["loss"] < 12
    assert Probe.facts(tmp_path / "probe")["accuracy"] == accuracy


def test_rebuilt_frames_are_those_of_the_autoencoder() -> None:
    frames = draw_windows(np.random.default_rng(0), 1, 3).frames[0][:, :16, :16]
    vae = tiny_vae()
    one_by_one = [rebuild(frame[None], vae)[0] for frame in frames]
    assert np.abs(rebuild(frames, vae).astype(int) - np.stack(one_by_one)).max() <= 1
