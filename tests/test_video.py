import gc
import os
import subprocess
import sys
import weakref
from fractions import Fraction
from itertools import islice

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nuwaxl.video import (
    OutputKind,
    VideoInfo,
    VideoWriter,
    as_frame_rate,
    check_output,
    probe,
    read_video,
    write_video,
)

OUTPUTS = ["film.mp4", "film.mkv", "film.webm", "film.gif", "film"]
FILES = OUTPUTS[:3]
CODECS = dict(zip(OUTPUTS, ["h264", "h264", "vp9", "gif", "png"], strict=True))


def picture(index, height=64, width=96):
    """A colour gradient that slides, with a bright bar whose place tells the number."""
    rows, columns = np.mgrid[0:height, 0:width]
    red, green = rows * 255 // max(1, height - 1), columns * 255 // max(1, width - 1)
    frame = np.stack([red, green, (rows + columns + 3 * index) % 128], axis=-1).astype(np.uint8)
    bar = 4 * index % width
    frame[:, bar : bar + 4] = 255
    return frame


def film(num_frames, height=64, width=96):
    for index in range(num_frames):
        yield picture(index, height, width)


def psnr(made, meant):
    error = np.mean((np.asarray(made, float) - np.asarray(meant, float)) ** 2)
    return np.inf if error == 0 else 10 * np.log10(255**2 / error)


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_film_comes_back_as_it_was_written(tmp_path, name):
    assert write_video(film(20), tmp_path / name, 8) == 20
    frames = list(read_video(tmp_path / name))
    assert len(frames) == 20
    for index, frame in enumerate(frames):
        assert frame.dtype == np.uint8
        assert psnr(frame, picture(index)) > 26
        assert name != "film" or (frame == picture(index)).all()
    assert probe(tmp_path / name) == VideoInfo(20, Fraction(8), 96, 64, CODECS[name])
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("height_width", [(95, 127), (96, 127), (95, 128), (1, 1), (3, 2)])
def test_odd_and_tiny_sizes_are_kept_exactly(tmp_path, name, height_width):
    write_video(film(3, *height_width), tmp_path / name, 8)
    frames = list(read_video(tmp_path / name))
    assert [frame.shape for frame in frames] == [(*height_width, 3)] * 3
    assert (probe(tmp_path / name).height, probe(tmp_path / name).width) == height_width


@pytest.mark.parametrize("name", ["film.mp4", "film.webm"])
def test_an_odd_size_costs_no_quality(tmp_path, name):
    quality = {}
    for size in [(96, 128), (95, 127)]:
        write_video(film(8, *size), tmp_path / name, 8, crf=4, overwrite=True)
        meant = [picture(index, *size) for index in range(8)]
        quality[size] = psnr(list(read_video(tmp_path / name)), meant)
    assert quality[95, 127] > quality[96, 128] - 0.5


@pytest.mark.parametrize("name", ["film.mp4", "film.webm"])
def test_files_are_what_every_player_shows(tmp_path, name):
    write_video(film(3, 95, 127), tmp_path / name, 8)
    with av.open(str(tmp_path / name)) as container:
        frame = next(container.decode(video=0))
        assert frame.format.name == "yuv420p"
        assert (frame.colorspace, frame.color_range) == (1, 1)  # BT.709, limited
        assert frame.pts == 0


@pytest.mark.parametrize("name", ["film.mp4", "film.webm"])
def test_flat_colours_keep_their_value(tmp_path, name):
    colours = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    frame = colours.repeat(16, 0).repeat(16, 1)
    write_video([frame] * 3, tmp_path / name, 8, crf=2)
    last = list(read_video(tmp_path / name))[-1]
    error = last[8::16, 8::16].astype(int) - colours
    assert np.abs(error).max() <= 5
    assert np.abs(error.mean((0, 1))).max() < 0.6


@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("fps", [1, 8, 12.5, 23.976, 30])
@pytest.mark.parametrize("num_frames", [1, 30])
def test_rate_and_length_survive(tmp_path, name, fps, num_frames):
    write_video(film(num_frames, 16, 16), tmp_path / name, fps)
    info = probe(tmp_path / name)
    assert info.num_frames == num_frames == len(list(read_video(tmp_path / name)))
    if name == "film.gif":  # counts in hundredths of a second
        assert info.duration == pytest.approx(num_frames / fps, abs=0.02)
    else:
        assert info.fps == as_frame_rate(fps)


def test_a_gif_tells_common_rates_apart(tmp_path):
    for fps in (5, 8, 10, 12, 15, 24, 25, 30, 50):
        write_video(film(48, 8, 8), tmp_path / "film.gif", fps, overwrite=True)
        assert probe(tmp_path / "film.gif").fps == fps


def test_frames_that_do_not_change_are_frames_too(tmp_path):
    for name in OUTPUTS:
        write_video([picture(0)] * 9, tmp_path / name, 8)
        assert len(list(read_video(tmp_path / name))) == probe(tmp_path / name).num_frames == 9


@pytest.mark.parametrize("name", OUTPUTS)
def test_the_same_frames_give_the_same_bytes(tmp_path, name):
    contents = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        write_video(film(12), folder / name, 8)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        contents.append([path.read_bytes() for path in files])
    assert contents[0] == contents[1]


@pytest.mark.parametrize("name", ["film.mp4", "film.webm", "film.gif"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_cut_file_plays_its_beginning(tmp_path, name, share, caplog):
    write_video(film(96, 32, 48), tmp_path / name, 8)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: int(share * len(whole))])
    frames = list(read_video(tmp_path / name))
    assert share - 0.25 < len(frames) / 96 < share + 0.15
    assert psnr(frames[:-1], list(film(len(frames) - 1, 32, 48))) > 25
    assert abs(probe(tmp_path / name).num_frames - len(frames)) <= (name == "film.gif")


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_film_is_never_held_in_memory(tmp_path, name):
    alive = []

    def watched():
        for index in range(2000 if name == "film.mp4" else 100):
            frame = picture(index % 50, 16, 16)
            alive.append(weakref.ref(frame))
            yield frame
            del frame
            # The caller may hold the frame that it was just given, and nothing before it.
            assert sum(ref() is not None for ref in alive[-20:]) <= 1
        gc.collect()
        assert sum(ref() is not None for ref in alive) <= 1

    write_video(watched(), tmp_path / name, 24)
    read = [weakref.ref(frame) for frame in islice(read_video(tmp_path / name), 100)]
    assert sum(ref() is not None for ref in read) == 0


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_broken_film_leaves_nothing(tmp_path, name):
    def broken():
        yield from film(5)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_video(broken(), tmp_path / name, 8)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "partial"),
    [
        ("film.mp4", "film.partial.mp4"),
        ("film.webm", "film.partial.webm"),
        ("film.gif", "film.partial.gif"),
        ("film", "film.partial"),
    ],
)
def test_a_broken_film_can_be_kept_as_partial(tmp_path, name, partial):
    def broken():
        yield from film(5)
        raise RuntimeError("the model fell over")

    for _ in range(2):  # the second time in place of the first
        with pytest.raises(RuntimeError, match="fell over"):
            write_video(broken(), tmp_path / name, 8, keep_partial=True)
        assert os.listdir(tmp_path) == [partial]
        assert len(list(read_video(tmp_path / partial))) == 5


@pytest.mark.parametrize("name", OUTPUTS)
def test_nothing_has_the_final_name_before_the_end(tmp_path, name):
    with VideoWriter(tmp_path / name, 8) as writer:
        for frame in film(3):
            writer.write(frame)
        assert not (tmp_path / name).exists()
    assert (tmp_path / name).exists()


@pytest.mark.parametrize("name", OUTPUTS)
def test_an_existing_film_is_replaced_only_on_request(tmp_path, name):
    write_video(film(3), tmp_path / name, 8)
    with pytest.raises(FileExistsError, match="choose another name, or ask to overwrite"):
        write_video(film(2), tmp_path / name, 8)
    write_video(film(2), tmp_path / name, 8, overwrite=True)
    assert len(list(read_video(tmp_path / name))) == 2
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_name_taken_during_the_work_costs_neither_film(tmp_path, name):
    writer = VideoWriter(tmp_path / name, 8)
    writer.write(picture(0))
    write_video(film(2), tmp_path / name, 8)
    with pytest.raises(FileExistsError, match="kept as"):
        writer.close()
    assert len(list(read_video(tmp_path / name))) == 2
    assert len(list(read_video(writer.partial_path))) == 1


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("film.MP4", OutputKind.MP4),
        ("film.webm", OutputKind.WEBM),
        ("film.gif", OutputKind.GIF),
        ("film", OutputKind.FOLDER),
        ("film.v2/", OutputKind.FOLDER),
    ],
)
def test_the_ending_says_what_is_written(tmp_path, path, kind):
    assert check_output(f"{tmp_path}/{path}") is kind
    assert os.listdir(tmp_path) == []


def test_a_bad_output_is_refused_with_the_way_out(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "diary.txt").write_text("dear diary")
    with pytest.raises(ValueError, match=r"'.avi'; known are .mp4, .mkv, .webm, .gif"):
        check_output(tmp_path / "film.avi")
    with pytest.raises(FileNotFoundError, match="does not exist: make it first"):
        check_output(tmp_path / "nowhere" / "film.mp4")
    with pytest.raises(NotADirectoryError, match="is a file, not a folder"):
        check_output(tmp_path / "file" / "film.mp4")
    with pytest.raises(FileExistsError, match="is a folder"):
        check_output(tmp_path / "folder.mp4", overwrite=True)
    with pytest.raises(FileExistsError, match="is a file, and a folder"):
        check_output(tmp_path / "file", overwrite=True)
    with pytest.raises(FileExistsError, match="not empty"):
        check_output(tmp_path / "full")
    with pytest.raises(FileExistsError, match=r"'diary.txt', which is no frame"):
        check_output(tmp_path / "full", overwrite=True)
    with pytest.raises(ValueError, match="at most 50 frames per second"):
        check_output(tmp_path / "film.gif", fps=60)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a folder that nobody may write")
def test_a_folder_that_cannot_be_written_is_refused():
    with pytest.raises(PermissionError, match="cannot be written"):
        check_output("/proc/film.mp4")


def test_checking_an_output_loads_nothing_heavy():
    code = (
        "import sys; from nuwaxl.video import check_output; check_output('film.mp4');"
        "print({'numpy', 'av', 'PIL', 'torch'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


def test_known_decimals_become_broadcast_rates():
    assert as_frame_rate(23.976) == Fraction(24000, 1001)
    assert as_frame_rate(29.97) == Fraction(30000, 1001)
    assert as_frame_rate(59.94) == Fraction(60000, 1001)
    assert as_frame_rate(12.5) == Fraction(25, 2)
    assert as_frame_rate(100 / 3) == Fraction(100, 3)


@given(st.integers(1, 240), st.integers(1, 1001))
def test_fractions_stay_exact(numerator, denominator):
    rate = Fraction(max(numerator, denominator), denominator)
    if rate <= 240 and abs(rate * Fraction(1001, 1000) - round(rate * Fraction(1001, 1000))) > 0.01:
        assert as_frame_rate(rate) == as_frame_rate(float(rate)) == rate


@pytest.mark.parametrize("fps", [0, 0.5, 241, float("nan"), float("inf"), -8, True])
def test_a_rate_out_of_range_is_refused(tmp_path, fps):
    with pytest.raises(ValueError, match="`fps` must be"):
        VideoWriter(tmp_path / "film.mp4", fps)


def test_smaller_crf_is_a_better_picture(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 1), dtype=np.uint8).repeat(3, -1)
    for name in ("film.mp4", "film.webm"):
        quality = []
        for crf in (5, 40):
            write_video(noise, tmp_path / name, 8, crf=crf, overwrite=True)
            quality.append(psnr(list(read_video(tmp_path / name)), noise))
        assert quality[0] > quality[1] + 5
    with pytest.raises(ValueError, match="from 1 to 51"):
        VideoWriter(tmp_path / "new.mp4", 8, crf=52)
    with pytest.raises(ValueError, match="has none"):
        VideoWriter(tmp_path / "new.gif", 8, crf=20)


def test_frames_of_another_kind_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"frame 1 has \(64, 64, 3\)"):
        write_video([picture(0), picture(0, 64, 64)], tmp_path / "film.mp4", 8)
    for wrong in (np.zeros((8, 8, 3)), np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8)):
        with pytest.raises(ValueError, match="must be uint8 of shape"):
            write_video([wrong], tmp_path / "film.mp4", 8)
    with pytest.raises(ValueError, match="No frame was written"):
        write_video([], tmp_path / "film.mp4", 8)
    assert os.listdir(tmp_path) == []


def test_what_is_no_film_is_refused(tmp_path):
    (tmp_path / "text.mp4").write_text("no film at all")
    (tmp_path / "empty").mkdir()
    for read in (probe, lambda path: list(read_video(path))):
        with pytest.raises(ValueError, match="cannot be read as a film"):
            read(tmp_path / "text.mp4")
        with pytest.raises(ValueError, match=r"holds no \.png"):
            read(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="There is no film"):
        read_video(tmp_path / "nowhere.mp4")  # at the call, not at the first frame


def test_names_that_look_like_addresses_are_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("12:30.mp4", "a %03d.gif", "http:film.webm"):
        write_video(film(2), name, 8)
        assert len(list(read_video(name))) == probe(name).num_frames == 2
