"""The benchmark commands run, at sizes that say nothing about speed."""

import importlib.util
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from PIL import Image
from tiny import tiny_transformer, tiny_unet

from benchmarks import backbones, films, networks, paper_numbers, paper_tables, profile
from benchmarks.paper_numbers import AVG_FD, BLOCK_FD, Claim, Verdict, as_markdown, claims, verdicts
from nuwaxl.models.mask_unet3d import MaskUNet3D
from nuwaxl.tensors.devices import autocast

ROOT = Path(__file__).parent.parent


def test_an_order_holds_when_every_pair_does() -> None:
    claim = Claim("2c", BLOCK_FD, 16, {"a": 1.0, "b": 2.0, "c": 2.0, "d": 3.0})
    same = Verdict(claim, {"d": 9.0, "a": 5.0, "c": 6.0, "b": 7.0})
    assert same.paper_order[0] == same.our_order[0] == "a"
    assert same.pairs == (5, 5)  # the paper does not tell b from c
    assert same.holds
    other = Verdict(claim, {"a": 5.0, "d": 4.0})
    assert other.pairs == (0, 1)
    assert not other.holds


def test_the_papers_own_numbers_hold_against_themselves() -> None:
    rows = [
        {"table": claim.table, "row": row, "num_frames": claim.num_frames, claim.measure: value}
        for claim in claims()
        for row, value in claim.paper.items()
    ]
    found = verdicts(rows)
    assert len(found) == len(claims()) == 9 + 4 + 6
    assert all(verdict.holds for verdict in found)


def test_a_claim_without_two_measured_rows_says_nothing() -> None:
    row = {"table": "2b", "row": "full", "num_frames": 226, AVG_FD: 1.0, BLOCK_FD: None}
    assert verdicts([row]) == []
    assert "| full | 226 | 1 | - |" in as_markdown([row], [])


def test_small_tables_are_made_once_and_then_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--smoke", "--tables", "2b,latents", "--work", str(tmp_path / "work")]
    options += ["--output", str(tmp_path / "tables.json")]
    # In a process of its own, where settings are read as users' are: without shape checks.
    command = [sys.executable, "-m", "benchmarks.paper_tables", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "training local full 16" in done.stdout
    first = json.loads((tmp_path / "tables.json").read_text())
    assert [row["row"] for row in first["rows"]] == [
        *paper_tables.INJECTIONS, *["stored latents", "pixels encoded again"] * 2,
    ]  # fmt: skip
    assert all(row[AVG_FD] >= 0 for row in first["rows"])
    assert first["claims"][0]["claim"] == "Table 2b, avg_fd"
    stored, again = first["rows"][-2:]
    assert again["runs"] == stored["runs"] > 1
    assert again[AVG_FD] != stored[AVG_FD]
    assert "Does the paper's ordering hold?" in (tmp_path / "tables.md").read_text()

    assert paper_tables.main(options)["rows"] == first["rows"]
    assert "training" not in capsys.readouterr().out
    with pytest.raises(SystemExit):
        paper_tables.main([*options, "--strips", "9"])
    assert "`--work` must be a folder of one budget" in capsys.readouterr().err


def test_both_backbones_are_trained_and_measured_alike(tmp_path: Path) -> None:
    work = tmp_path / "work"
    options = [
        "--smoke",
        "--frames",
        "16",
        "--work",
        str(work),
        "--output",
        str(tmp_path / "b.json"),
    ]
    command = [sys.executable, "-m", "benchmarks.backbones", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "b.json").read_text())
    rows = [(row["backbone"], row["row"]) for row in result["rows"]]
    assert rows == [(b, r) for b in ("unet", "transformer") for r in ("local", "tree")]
    unet, transformer = (result["networks"][name]["training"] for name in ("unet", "transformer"))
    assert unet == transformer == {s: {"steps": 1.0} for s in ("image", "global", "local")}
    classes = {
        name: json.loads((work / "models" / name / "local_unet" / "config.json").read_text())
        for name in ("unet", "transformer")
    }
    assert classes["unet"]["_class_name"] == "MaskUNet3D"
    assert classes["transformer"]["_class_name"] == "MaskTransformer3D"
    assert (work / "models" / "transformer" / "world.json").is_file()
    # Three lines for the one story: what is real, and the films of either network.
    with Image.open(tmp_path / "b.png") as sheet:
        assert (sheet.width // 128, sheet.height // 128) == (10, 3)


@pytest.mark.parametrize(
    "wrong", [["--minutes-per-stage", "0"], ["--frames", "15"], ["--probe", "nowhere"]]
)
def test_backbones_refuse_wrong_options(
    wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        backbones.main(wrong)
    assert stopped.value.code == 2
    assert wrong[0] in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [["--tables", "3"], ["--stories", "0"], ["--probe", "nowhere"]])
def test_wrong_options_are_refused_before_anything_is_loaded(
    wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        paper_tables.main(wrong)
    assert stopped.value.code == 2
    assert wrong[0] in capsys.readouterr().err


def test_every_paper_number_has_a_row_here() -> None:
    known = {"1": {"tree", "sequential", "hierarchy"}, "2a": set(paper_tables.VAES),
             "2b": set(paper_tables.INJECTIONS), "2c": set(paper_tables.DEPTHS),
             "2d": {f"L = {length}" for length in paper_tables.SEGMENT_LENGTHS}}  # fmt: skip
    for claim in paper_numbers.claims():
        assert set(claim.paper) <= known[claim.table]


def test_peers_have_our_size() -> None:
    size = networks.parameters(MaskUNet3D())
    peers = [networks.diffusers_unet(size)]
    if importlib.util.find_spec("video_diffusion_pytorch") is not None:
        peers.append(networks.lucidrains_unet(size))
        assert "torchvision" not in sys.modules
    peers.append(networks.our_backbone("transformer", networks.CHANNELS))
    for peer in peers:
        assert networks.parameters(peer) == pytest.approx(size, rel=0.15)


def test_a_peer_that_is_not_installed_is_named_with_the_way_to_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install --no-deps video-diffusion-pytorch"):
        networks.lucidrains_unet(1)


@pytest.mark.parametrize(
    ("operator", "group"),
    [
        ("aten::mkldnn_convolution", "convolutions"),
        ("aten::baddbmm", "matrix products"),
        ("aten::copy_", "copies and casts"),
        ("aten::as_strided", profile.REST),
    ],
)
def test_operators_fall_into_groups(operator: str, group: str) -> None:
    assert profile.group_of(operator) == group


def test_the_peak_is_the_processs_own_not_that_of_what_started_it() -> None:
    inner = "from benchmarks.machine import peak_gigabytes; print(peak_gigabytes())"
    outer = (
        "import subprocess, sys; held = b'1' * 2_000_000_000;"
        f"print(subprocess.check_output([sys.executable, '-c', {inner!r}], text=True))"
    )
    done = subprocess.run([sys.executable, "-c", outer], cwd=ROOT, capture_output=True, text=True)
    assert 0.05 < float(done.stdout) < 1.5, done.stderr
    # More than is in use now, once it was in use.
    more = "from benchmarks.machine import peak_gigabytes as peak; before = peak();"
    more += "held = b'1' * 500_000_000; del held; print(peak() - before)"
    done = subprocess.run([sys.executable, "-c", more], cwd=ROOT, capture_output=True, text=True)
    assert float(done.stdout) == pytest.approx(0.5, abs=0.2), done.stderr


def test_films_are_made_by_each_plan_and_with_workers() -> None:
    found = films.cases([64, 3376], workers=2, steps=10)
    assert len(found) == len(set(found))
    for frames in (64, 3376):
        plans = {(case.plan, case.workers) for case in found if case.frames == frames}
        assert plans == {("tree", 1), ("tree", 2), ("sequential", 1)}


def test_plots_are_pictures_by_themselves(tmp_path: Path) -> None:
    made = [
        {**asdict(case), "frames_per_second": 30.0 + number, "peak_gigabytes": 0.5}
        for number, case in enumerate(films.cases([64, 226], workers=2, steps=1))
    ]
    films.plots(made, tmp_path)
    for name in ("films-speed.svg", "films-memory.svg"):
        root = ElementTree.parse(tmp_path / name).getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert "64, 226" in "".join(root.itertext())


@pytest.mark.parametrize(
    ("backbone", "tiny"), [("unet", tiny_unet), ("transformer", tiny_transformer)]
)
@torch.no_grad()
def test_what_a_film_keeps_between_steps_changes_no_prediction(backbone: str, tiny) -> None:
    torch.manual_seed(0)
    step = profile.Pass(1, backbone)
    small = tiny(in_channels=32, out_channels=32, cross_attention_dim=256, num_prompt_tokens=5)
    assert type(step.network) is type(small)
    step.network, step.dtype = small, torch.bfloat16
    alone = step.alone()
    with autocast("cpu", torch.bfloat16):
        first, second = step.in_film(), step.in_film()
    assert torch.equal(alone, first)
    assert torch.equal(alone, second)
