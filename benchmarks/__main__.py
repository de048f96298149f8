"""`make bench`: networks, then films with the bundled model; JSON in benchmarks/results/."""

import datetime
from pathlib import Path

from benchmarks import films, networks


def main() -> None:
    folder = Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    day = datetime.date.today().isoformat()
    networks.main(["--output", str(folder / f"networks-{day}.json")])
    films.main(["--frames", "64", "226", "1024", "--output", str(folder / f"films-{day}.json")])


if __name__ == "__main__":
    main()
