"""`make bench`: networks, films and start-up with the bundled model; JSON in benchmarks/results/.

Not the paper's tables, which train networks for an hour: python -m benchmarks.paper_tables.
"""

import argparse
import datetime
from pathlib import Path

from benchmarks import films, networks, profile, startup


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="All benchmarks.")
    parser.add_argument(
        "--output", default=str(Path(__file__).parent / "results"), help="folder for the results"
    )
    folder = Path(parser.parse_args().output)
    folder.mkdir(parents=True, exist_ok=True)
    day = datetime.date.today().isoformat()
    networks.main(["--output", str(folder / f"networks-{day}.json")])
    for name in networks.BACKBONES:
        output = str(folder / f"profile-{name}-{day}.json")
        profile.main(["--backbone", name, "--output", output])
    startup.main(["--output", str(folder / f"startup-{day}.json")])
    films.main(["--output", str(folder / f"films-{day}.json")])


if __name__ == "__main__":
    main()
