"""How long it takes before anything happens: the commands, the import, the bundled pipeline.

python -m benchmarks.startup
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.machine import describe, interleaved, save

CLI = "import sys; from nuwaxl.cli import main; sys.exit(main(sys.argv[1:]))"
PLAN = ["plan", "--prompt", "a dog runs across the beach", "--length", "3376"]

PROGRAMS: dict[str, list[str]] = {
    "python alone": ["pass"],
    "import nuwaxl": ["import nuwaxl"],
    "nuwaxl --help": [CLI, "--help"],
    "nuwaxl plan, 3376 frames": [CLI, *PLAN],
    "import torch and diffusers": ["import torch, diffusers"],
    "bundled pipeline loaded": [
        "from nuwaxl import LongVideoPipeline; LongVideoPipeline.from_pretrained()"
    ],
}


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    summary = __doc__.splitlines()[0] if __doc__ else None
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=summary)
    parser.add_argument("--rounds", type=int, default=3, help="starts of every program")
    parser.add_argument("--output", default=None, help="JSON file")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")

    def program(argv: list[str]) -> Callable[[], object]:
        command = [sys.executable, "-c", *argv]
        return lambda: subprocess.run(command, check=True, capture_output=True)

    calls = {name: program(argv) for name, argv in PROGRAMS.items()}
    seconds = interleaved(calls, options.rounds)
    result = {
        "machine": describe(f"python -m benchmarks.startup --rounds {options.rounds}"),
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
    }
    print(json.dumps(result, indent=1))
    save(result, options.output)
    return result


if __name__ == "__main__":
    main()
