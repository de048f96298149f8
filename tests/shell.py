"""The command line on projects of a tiny model, in an empty folder."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nuwaxl.cli import main

FIXED = ("--length", "40", "--steps", "1")
HERE = ("--device", "cpu", "--dtype", "float32", "--batch-size", "4")


class Shell:
    """Runs commands in an empty folder; films are PNG folders, so that pixels can be compared."""

    def __init__(self, checkpoint: str, folder: Path, capsys: pytest.CaptureFixture[str]):
        self.checkpoint, self.folder, self.capsys = checkpoint, folder, capsys

    def __call__(self, *argv: str | Path, code: int = 0) -> str:
        got = main([str(part) for part in argv])
        shown = self.capsys.readouterr()
        assert got == code, shown.err
        if code:
            assert shown.err.count("\n") == 1, shown.err
            return shown.err
        return shown.out

    def begin(self, *argv: str, **changes: int) -> str:
        return self(
            *("generate", "--project", "film", "-o", "png", "--prompt", "a dog runs"),
            *("--model", self.checkpoint, *FIXED, *HERE, *argv),
            **changes,
        )

    def frames(self, where: str = "png") -> np.ndarray:
        return np.stack([np.asarray(Image.open(p)) for p in sorted(Path(where).glob("*.png"))])

    def segments(self) -> set[str]:
        return {path.name for path in Path("film/segments").glob("*/*.safetensors")}


def changed(before: np.ndarray, after: np.ndarray) -> list[int]:
    return [i for i in range(len(before)) if not np.array_equal(before[i], after[i])]


def will_run(out: str) -> int:
    return int(out.split("will run ")[1].split(" ")[0])


def runs_made(out: str) -> int:
    return int(out.rsplit(" fps, ", 1)[1].split(" run")[0])
