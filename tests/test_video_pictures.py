import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nuwaxl.video import contact_sheet, image_to_array, load_image


def pictures(num_pictures):
    rng = np.random.default_rng(0)
    return list(rng.integers(0, 256, (num_pictures, 64, 96, 3), dtype=np.uint8))


def test_a_contact_sheet_has_a_cell_per_frame():
    frames = pictures(5)
    sheet = contact_sheet(frames, columns=3)
    labelled = contact_sheet(frames, columns=3, labels=["short", *["long words " * 9] * 4])
    doubled = contact_sheet(iter(frames), columns=3, scale=2)
    assert sheet.width == labelled.width
    assert sheet.height < labelled.height
    assert sheet.width < doubled.width < 2 * sheet.width
    np.testing.assert_array_equal(np.asarray(sheet)[6 : 6 + 64, 6 : 6 + 96], frames[0])
    assert contact_sheet(frames[:2], columns=9).width < sheet.width


@settings(max_examples=10, deadline=None)
@given(st.text(max_size=60), st.integers(1, 40))
def test_labels_of_any_text_stay_within_their_picture(label, width):
    blank = np.full((2, width, 3), 255, np.uint8)
    sheet = np.asarray(contact_sheet([blank], columns=1, labels=[label]))
    # Wider than one letter, a cell keeps its ink to itself.
    if width >= 20:
        assert (sheet[:, -3:] == 255).all()


def test_a_contact_sheet_needs_sense():
    with pytest.raises(ValueError, match="at least one frame"):
        contact_sheet([], columns=2)
    with pytest.raises(ValueError, match="2 frames need as many labels, got 1"):
        contact_sheet(pictures(2), columns=2, labels=["one"])
    with pytest.raises(ValueError, match="one shape"):
        contact_sheet([*pictures(1), np.zeros((8, 8, 3), np.uint8)], columns=2)
    with pytest.raises(ValueError, match="`columns`"):
        contact_sheet(pictures(2), columns=0)


def test_a_picture_is_filled_and_its_middle_kept(tmp_path):
    wide = np.zeros((40, 120, 3), np.uint8)
    wide[:, 40:80] = (255, 0, 0)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    square = load_image(tmp_path / "wide.png", 20)
    assert square.shape == (20, 20, 3)
    assert (square[:, 4:-4] == (255, 0, 0)).all()
    assert square[..., 0].min() > 200  # only the filter's edge knows what was cut off
    assert load_image(tmp_path / "wide.png", (40, 120)).tolist() == wide.tolist()
    assert load_image(tmp_path / "wide.png", (10, 30)).shape == (10, 30, 3)


def test_a_picture_lies_as_its_exif_says(tmp_path):
    frame = np.zeros((20, 40, 3), np.uint8)
    frame[:, :20] = 255  # white on the left
    image = Image.fromarray(frame)
    exif = image.getexif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise: white on top
    image.save(tmp_path / "turned.png", exif=exif)
    turned = load_image(tmp_path / "turned.png", (40, 20))
    assert turned[:18].min() == 255
    assert turned[22:].max() == 0


def test_pictures_of_every_mode_become_rgb(tmp_path):
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert (image_to_array(clear, 4) == 255).all()
    deep = Image.fromarray(np.full((4, 4), 257 * 100, np.uint16))
    assert (image_to_array(deep, 4) == 100).all()
    for mode in ("1", "L", "LA", "P", "CMYK", "YCbCr", "I", "F"):
        assert image_to_array(Image.new(mode, (6, 5)), (4, 8)).shape == (4, 8, 3)


def test_what_is_no_picture_is_refused(tmp_path):
    (tmp_path / "text.png").write_text("no picture at all")
    with pytest.raises(ValueError, match="cannot be read as a picture"):
        load_image(tmp_path / "text.png", 8)
    with pytest.raises(FileNotFoundError, match="There is no picture"):
        load_image(tmp_path / "nowhere.png", 8)
    with pytest.raises(ValueError, match="`size`"):
        image_to_array(Image.new("RGB", (4, 4)), 0)
