"""EfficientNet's own weights; Inception, I3D, VideoMAE and CLIP as tiny random networks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import tiny_tokenizer
from torch import nn
from transformers import (
    BertConfig,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    VideoMAEConfig,
    VideoMAEModel,
)

from nuwaxl.evaluation.distances import frechet_distance
from nuwaxl.evaluation.features import FeatureRecorder, Readers, film_features, load_readers
from nuwaxl.evaluation.measuring import measure_film
from nuwaxl.evaluation.probe import Probe
from nuwaxl.evaluation.rows import render_film
from nuwaxl.evaluation.scoring import Effort, score_row
from nuwaxl.evaluation.settings import EvaluationConfig
from nuwaxl.evaluation.stories import KnownFilm, known_film
from nuwaxl.evaluation.user_networks import (
    load_clip,
    load_inception,
    load_video_network,
    pixels_at,
)
from nuwaxl.toon import Scene, Story

CPU = torch.device("cpu")


class TinyInception(nn.Module):
    """Takes what NVIDIA's `inception-2015-12-05.pt` takes."""

    def forward(self, images: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        assert images.dtype == torch.uint8
        assert return_features
        return nn.functional.adaptive_avg_pool2d(images.float(), 2)


class TinyI3D(nn.Module):
    """Takes what `i3d_torchscript.pt` takes: means of colours, and of their change in time."""

    def forward(
        self,
        video: torch.Tensor,
        rescale: bool = True,
        resize: bool = True,
        return_features: bool = False,
    ) -> torch.Tensor:
        assert list(video.shape[1:]) == [3, 16, 224, 224]
        assert not rescale
        assert not resize
        assert return_features
        assert video.abs().max() <= 1
        change = (video[:, :, 1:] - video[:, :, :-1]).abs()
        return torch.cat([video.mean(dim=(2, 3, 4)), change.mean(dim=(2, 3, 4))], dim=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All four, saved as a user has them."""
    folder = tmp_path_factory.mktemp("networks")
    torch.manual_seed(0)
    torch.jit.script(TinyInception()).save(folder / "inception.pt")
    torch.jit.script(TinyI3D()).save(folder / "i3d.pt")
    layers: dict[str, Any] = {
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 8,
    }
    VideoMAEModel(VideoMAEConfig(image_size=32, patch_size=16, **layers)).save_pretrained(
        folder / "videomae"
    )
    clip = CLIPConfig(
        text_config={"vocab_size": 32, "max_position_embeddings": 16, "eos_token_id": 3, **layers},
        vision_config={"image_size": 32, "patch_size": 16, **layers},
        projection_dim=8,
    )
    CLIPModel(clip).save_pretrained(folder / "clip")
    tiny_tokenizer().save_pretrained(folder / "clip")
    CLIPImageProcessorPil(image_mean=[0.5] * 3, image_std=[0.25] * 3).save_pretrained(
        folder / "clip"
    )
    BertConfig(**layers).save_pretrained(folder / "bert")
    return folder


def film(action: str = "run") -> KnownFilm:
    """Six seconds on the meadow."""
    scenes = [Scene("dog", "meadow", "day", action, "right", start, 4.0) for start in (0.0, 4.0)]
    return known_film(Story(tuple(scenes), 8.0), 48, 8.0)


FRAMES = np.stack(list(render_film(film())))


# ---- What they are fed ------------------------------------------------------------------------


def test_pixels_are_resized_and_normalised_as_asked() -> None:
    grey = np.full((1, 4, 4, 3), 51, np.uint8)  # a fifth of white
    assert pixels_at(grey, 8).shape == (1, 3, 8, 8)
    assert torch.allclose(pixels_at(grey, 8), torch.tensor(-0.6))
    shifted = pixels_at(grey, 2, (0.1, 0.2, 0.3), (0.5, 0.5, 0.5))
    assert torch.allclose(shifted[0, :, 0, 0], torch.tensor([0.2, 0.0, -0.2]), atol=1e-6)


def test_inception_gets_eight_bit_pixels_and_gives_one_vector_per_frame(folder: Path) -> None:
    network = load_inception(str(folder / "inception.pt"), CPU)
    features = network.frame_features(FRAMES[:20])
    assert features.shape == (20, 12)
    assert features.mean() == pytest.approx(FRAMES[:20].mean(), rel=1e-3)


def test_clip_score_is_a_hundred_times_the_cosine_of_a_frame_and_its_words(folder: Path) -> None:
    network = load_clip(str(folder / "clip"), CPU)
    with torch.no_grad():  # these random weights disagree with every word, and 0 says little
        network.network.visual_projection.weight.neg_()
    prompts = ["the dog runs", "the cat walks", "the dog runs"]
    scores = network.agreement(FRAMES[[0, 0, 0]], prompts)
    tokens = network.tokenizer(prompts, padding=True, return_tensors="pt")
    pixels = pixels_at(FRAMES[[0, 0, 0]], 32, (0.5,) * 3, (0.25,) * 3, mode="bicubic")
    with torch.no_grad():
        out = network.network(
            input_ids=tokens["input_ids"],
            attention_mask=tokens["attention_mask"],
            pixel_values=pixels,
        )
    expected = 100 * (out.image_embeds * out.text_embeds).sum(dim=1).clamp(min=0).numpy()
    assert scores == pytest.approx(expected, abs=1e-3)
    assert scores[0] == scores[2] != scores[1]


def test_videomae_gives_the_mean_of_its_last_states(folder: Path) -> None:
    network = load_video_network(str(folder / "videomae"), CPU)
    features = network.block_features(FRAMES[:32].reshape(2, 16, *FRAMES.shape[1:]))
    assert network.name == "VideoMAE"
    assert features.shape == (2, 8)
    assert not np.allclose(features[0], features[1], atol=1e-7)


# ---- What comes of them -----------------------------------------------------------------------


def readers(folder: Path, video: str) -> Readers:
    config = EvaluationConfig(
        probe=str(folder / "no_probe_yet"),
        features=("probe",),
        inception=str(folder / "inception.pt"),
        video_network=str(folder / video),
        clip=str(folder / "clip"),
    )
    return load_readers(config, CPU)


def test_a_row_has_fid_fvd_and_clip_score_where_there_are_weights(folder: Path) -> None:
    all_of_them = readers(folder, "i3d.pt")
    real = film_features(render_film(film("walk")), all_of_them)
    same = measure_film(render_film(film("walk")), film("walk"), all_of_them)
    score = score_row([same], [real], Effort(0.0, 0, 0))
    assert score.fid == pytest.approx(0, abs=1e-3)
    assert score.fvd == pytest.approx(0, abs=1e-6)
    assert score.clip_score is not None
    assert 0 <= score.clip_score <= 100
    assert set(score.distances) == {"probe"}


@pytest.mark.parametrize("video", ["i3d.pt", "videomae"])
def test_fid_and_fvd_rise_when_colours_drift(folder: Path, video: str) -> None:
    all_of_them = readers(folder, video)
    real = film_features(render_film(film("walk")), all_of_them)
    gain = np.linspace(1.0, 0.3, len(FRAMES))[:, None, None, None]
    faulty = film_features((FRAMES * gain).astype(np.uint8), all_of_them)
    right = film_features(FRAMES, all_of_them)
    fid, fvd = (
        [frechet_distance(a, b) for a, b in ((side(faulty), side(real)), (side(right), side(real)))]
        for side in (lambda film: film.frames["inception"], lambda film: film.blocks)
    )
    assert fid[0] > 1.5 * fid[1]
    assert fvd[0] > 1.5 * fvd[1]


def test_fvd_sees_the_order_of_frames_and_fid_does_not(folder: Path) -> None:
    all_of_them = readers(folder, "i3d.pt")
    shuffled = FRAMES[np.random.default_rng(0).permutation(len(FRAMES))]
    right, mixed = (film_features(frames, all_of_them) for frames in (FRAMES, shuffled))
    pair = mixed.frames["inception"], right.frames["inception"]
    assert frechet_distance(*pair) == pytest.approx(0, abs=1e-2)
    assert mixed.blocks is not None
    assert right.blocks is not None
    assert mixed.blocks[:, 3:].mean() > 1.2 * right.blocks[:, 3:].mean()


def test_clip_score_tells_which_words_belong_to_a_frame(folder: Path) -> None:
    """Once a tiny CLIP has learned two words for two colours, as the real one has many."""
    network = load_clip(str(folder / "clip"), CPU)
    red, blue = (np.full((1, 8, 8, 3), colour, np.uint8) for colour in ([255, 0, 0], [0, 0, 255]))
    frames, prompts = np.concatenate([red, blue]), ["the dog", "the cat"]
    tokens = network.tokenizer(prompts, return_tensors="pt")
    pixels = pixels_at(frames, 32, network.mean, network.deviation, mode="bicubic")
    optimizer = torch.optim.Adam(network.network.parameters(), 0.02)
    network.network.train()
    for _ in range(40):
        optimizer.zero_grad()
        network.network(
            input_ids=tokens["input_ids"],
            attention_mask=tokens["attention_mask"],
            pixel_values=pixels,
            return_loss=True,
        ).loss.backward()
        optimizer.step()
    network.network.eval()
    right, wrong = network.agreement(frames, prompts), network.agreement(frames, prompts[::-1])
    assert right.min() > wrong.max() + 10


def test_blocks_reach_over_scenes_and_a_rest_is_left_out(folder: Path) -> None:
    recorder = FeatureRecorder(readers(folder, "i3d.pt"))
    probe = np.zeros((len(FRAMES), 2), np.float32)
    for first, stop in ((0, 10), (10, 30), (30, 45)):
        recorder.add(FRAMES[first:stop], probe[first:stop])
    pieces = recorder.finish()
    whole = FeatureRecorder(readers(folder, "i3d.pt"))
    whole.add(FRAMES[:45], probe[:45])
    both = pieces.blocks, whole.finish().blocks
    assert both[0] is not None
    assert both[1] is not None
    assert both[0].shape == (2, 6)
    assert np.array_equal(both[0], both[1])


def test_efficientnet_reads_frames_of_any_size_one_by_one() -> None:
    config = EvaluationConfig(probe="nowhere_yet", features=("probe", "efficientnet"))
    network = load_readers(config, CPU).frames["efficientnet"]
    features = network.frame_features(FRAMES[:3])
    assert features.shape == (3, 1280)
    assert network.frame_features(FRAMES[1:2])[0] == pytest.approx(features[1], abs=0.1)
    assert network.frame_features(np.zeros((1, 64, 96, 3), np.uint8)).shape == (1, 1280)


# ---- What is refused --------------------------------------------------------------------------


def test_files_and_folders_of_something_else_are_refused_in_one_line(folder: Path) -> None:
    torch.save({"weight": torch.zeros(1)}, folder / "weights.pth")
    VideoMAEConfig(num_frames=8).save_pretrained(folder / "short")
    for load, source, line in (
        (load_inception, "weights.pth", "`inception` must"),
        (load_video_network, "weights.pth", "`video_network` must be an I3D as TorchScript"),
        (load_video_network, "bert", "`video_network` must hold a videomae model"),
        (load_video_network, "short", "`video_network` must take 16 frames"),
        (load_clip, "bert", "`clip` must hold a clip model"),
        (load_clip, "nothing", "`clip` must be clip: a folder of transformers"),
    ):
        with pytest.raises(ValueError, match=line) as caught:
            load(str(folder / source), CPU)
        assert "\n" not in str(caught.value)


def test_a_hub_id_that_cannot_be_had_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="`clip` cannot be read from 'nobody/nothing'") as caught:
        load_clip("nobody/nothing", CPU)
    assert "\n" not in str(caught.value)


def test_no_probe_is_needed_to_load_what_looks(tmp_path: Path) -> None:
    config = EvaluationConfig(probe=str(tmp_path / "new"), features=("probe",))
    loaded = load_readers(config, CPU)
    assert isinstance(loaded.probe, Probe)
    assert not (tmp_path / "new").exists()
