"""Films of pretrained pipelines, tiny and with random weights, through the whole command line."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_backends import SIZE, save_tiny

from nuwaxl.backends.segment_model import BackendModel
from nuwaxl.cli import main
from nuwaxl.denoising.sampling import SamplingConfig
from nuwaxl.pipelines.backend import BackendPipeline

Roles = tuple[str, ...]
MACHINE = ("--device", "cpu", "--dtype", "float32", "--quiet")
TINY = ("--steps", "1", "--size", f"{SIZE}x{SIZE}", "--segment-length", "9")


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Checkpoints by the backend's name, and pictures of one's own."""
    root = tmp_path_factory.mktemp("backends")
    names = ("wan-vace", "wan-flf", "wan-flf-clip", "ltx", "stills")
    found = {name: save_tiny(name, root / name) for name in names}
    pictures = root / "pictures"
    pictures.mkdir()
    for at, value in enumerate((20, 120, 220)):
        picture = np.full((SIZE, SIZE, 3), value, np.uint8)
        Image.fromarray(picture).save(pictures / f"{at}.png")
    return found | {"pictures": str(pictures)}


ROLES: dict[str, Callable[[dict[str, str]], Roles]] = {
    "wan-vace": lambda f: ("--model", "wan-vace", "--checkpoint", f["wan-vace"]),
    "ltx": lambda f: ("--model", "ltx", "--checkpoint", f["ltx"]),
    "stills and wan-flf": lambda f: (
        *("--global-model", f"stills={f['stills']}"),
        *("--local-model", f"wan-flf={f['wan-flf']}"),
    ),
    "pictures and wan-flf with an image encoder": lambda f: (
        *("--global-model", f"pictures={f['pictures']}"),
        *("--local-model", f"wan-flf={f['wan-flf-clip']}"),
    ),
}


def frames_in(folder: Path) -> list[np.ndarray]:
    return [np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))]


def changed(before: list[np.ndarray], after: list[np.ndarray]) -> set[int]:
    assert len(before) == len(after)
    pairs = zip(before, after, strict=True)
    return {frame for frame, (old, new) in enumerate(pairs) if not np.array_equal(old, new)}


def runs_in(folder: Path) -> int:
    """Segments that were ever finished."""
    return len((folder / "segments" / "made.tsv").read_text().splitlines()) - 1


@pytest.mark.parametrize("roles", ROLES)
def test_a_film_is_made_resumed_looked_into_edited_and_pinned(
    folders: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, roles: str
) -> None:
    monkeypatch.chdir(tmp_path)
    film = tmp_path / "film"

    def nuwaxl(*argv: str) -> list[np.ndarray]:
        assert main([*argv, *MACHINE]) == 0
        return frames_in(tmp_path / "frames")

    said = (*ROLES[roles](folders), *TINY, "--fps", "16", "--prompt", "a dog", "--prompt", "a cat")
    begin = ("generate", "--project", "film", *said, "-o", "frames", "--length", "17")

    # Before the film is whole: a clip and the keyframes.
    assert main([*begin, "--max-level", "0", *MACHINE]) == 0
    assert runs_in(film) == 1
    assert main(["clip", "film", "--at", "0.2s", "--for", "0.2s", "-o", "clip", *MACHINE]) == 0
    num_runs = runs_in(film)
    assert num_runs <= 3
    assert main(["preview", "film", *MACHINE]) == 0
    assert runs_in(film) == num_runs

    whole = nuwaxl("generate", "--project", "film")
    assert len(whole) == 17
    assert len({frame.tobytes() for frame in whole}) == 17
    clip = frames_in(tmp_path / "clip")
    assert changed(clip, whole[4 : 4 + len(clip)]) == set()

    # A lost segment is made again, and the same; the last one, as keyframes are kept in others too.
    num_runs = runs_in(film)
    max(
        (film / "segments").rglob("*.safetensors"), key=lambda file: file.stat().st_mtime_ns
    ).unlink()
    assert changed(whole, nuwaxl("generate", "--project", "film")) == set()
    assert runs_in(film) == num_runs + 1

    # Frames 10 to 12: within a run, of no number of frames that a model could make alone.
    edited = nuwaxl("edit", "film", "--at", "0.6s..0.8s", "--prompt", "a fox")
    assert changed(whole, edited) == {10, 11, 12}
    assert changed(whole, nuwaxl("undo", "film")) == set()

    picture = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    Image.fromarray(picture).save("rose.png")
    pin = ("pin", "film", "--at", "0.1875s", "--image", "rose.png", "--around", "0.13s")
    shown = nuwaxl(*pin)
    assert np.array_equal(shown[3], picture)
    assert changed(whole, shown) == {1, 2, 3, 4, 5}


def test_own_pictures_are_the_keyframes_exactly(
    folders: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    roles = ROLES["pictures and wan-flf with an image encoder"](folders)
    argv = ("generate", *roles, *TINY, "--prompt", "a dog", "--length", "9", "-o", "frames")
    assert main([*argv, *MACHINE]) == 0
    frames = frames_in(tmp_path / "frames")
    assert [frames[at].mean() for at in (0, 4, 8)] == [20, 120, 220]


def pipeline(folders: dict[str, str], name: str = "wan-vace") -> BackendPipeline:
    return BackendPipeline.from_names(
        name,
        checkpoint=folders[name],
        size=f"{SIZE}x{SIZE}",
        segment_length=9,
        device="cpu",
        dtype="float32",
    )


def test_the_number_of_workers_and_the_order_change_no_pixel(
    folders: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = (*ROLES["wan-vace"](folders), *TINY, "--prompt", "a dog", "--length", "14")
    assert main(["generate", *said, "-o", "two", "--workers", "2", *MACHINE]) == 0
    sampling = SamplingConfig(num_inference_steps=1, guidance_scale=5.0)
    with pipeline(folders).film("a dog", 14, sampling=sampling) as film:
        last = list(film.frames(10, 14))
        alone = [*film.frames(0, 10), *last]
    assert changed(frames_in(tmp_path / "two"), alone) == set()


def test_a_film_follows_its_seed_and_its_prompts(folders: dict[str, str]) -> None:
    sampling = SamplingConfig(num_inference_steps=1, guidance_scale=1.0)

    def frame(prompt: str, seed: int) -> np.ndarray:
        with pipeline(folders, "ltx").film(prompt, 9, sampling=sampling, seed=seed) as film:
            return next(iter(film.frames()))

    dog = frame("a dog", 0)
    assert np.array_equal(dog, frame("a dog", 0))
    assert not np.array_equal(dog, frame("a dog", 1))
    assert not np.array_equal(dog, frame("a cat", 0))


def test_nothing_is_loaded_before_the_first_run_nor_when_all_is_there(
    folders: dict[str, str],
) -> None:
    sampling = SamplingConfig(num_inference_steps=1)
    with pipeline(folders, "ltx").film("a dog", 17, sampling=sampling) as film:
        model = film.orchestrator.executor.model  # pyright: ignore[reportAttributeAccessIssue]
        assert len(list(film.orchestrator.missing())) == film.timeline.num_segments
        assert not model._pipelines
        next(iter(film.frames()))
        assert len(model._pipelines) == 1  # both roles, one pipeline


def test_a_model_travels_to_another_process_without_its_weights(folders: dict[str, str]) -> None:
    choice = pipeline(folders, "ltx").choice
    load = pipeline(folders, "ltx").load
    model = BackendModel(choice, SamplingConfig(num_inference_steps=1), load, fps=25)
    with pipeline(folders, "ltx").film("a dog", 9, fps=25) as film:
        job = film.orchestrator.job(film.timeline.root)
    given = torch.zeros(1, 9, *model.latent_shape)
    latents = model.generate([job], given)
    travelled = pickle.dumps(model)
    assert len(travelled) < 20_000
    twin = pickle.loads(travelled)
    assert twin.fingerprint == model.fingerprint
    assert torch.equal(twin.generate([job], given), latents)


def test_settings_are_those_of_the_authors_unless_said(
    folders: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    roles = ROLES["stills and wan-flf"](folders)
    argv = ("generate", "--project", "film", *roles, "--prompt", "a dog", "--length", "5")
    size = ("--size", f"{SIZE}x{SIZE}")

    def sampling(*said: str) -> dict[str, float]:
        assert main([*argv, *size, *said, *MACHINE, "--max-level", "0"]) == 0
        state = json.loads((tmp_path / "film" / "history" / "0001.json").read_text())["film"]
        assert (state["fps"], state["segment_length"]) == (16, 81)
        return state["sampling"]

    found = sampling("--steps", "2", "--local-guidance-scale", "3")
    assert (found["num_inference_steps"], found["guidance_scale"]) == (2, 5)
    assert (found["local_num_inference_steps"], found["local_guidance_scale"]) == (2, 3)
