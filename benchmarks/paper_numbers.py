"""What the paper's tables say, and whether measured rows come in the same order.

Knows numbers and names, not where ours come from. Source: Yin et al., ACL 2023, tables 1 and 2.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

LENGTHS = (16, 256, 1024)
"""Frames of the films of tables 1, 2c and 2d."""

_TABLE_1 = {
    "sequential": ((40.14, 43.13, 48.56), (544.72, 573.55, 622.06), (4.0, 65.0, 259.0)),
    "hierarchy": ((34.47, 38.28, 43.24), (532.94, 561.75, 618.42), (7.0, 114.0, 453.0)),
    "tree": ((35.95, 35.68, 35.79), (520.19, 542.26, 572.86), (7.0, 17.0, 26.0)),
}
"""Avg-FID, B-FVD-16 and seconds by length. 'sequential' is the paper's Phenaki, 'hierarchy' its
FDM*: other networks there, other plans for the same network here."""

_TABLE_2A = {"image": (4.71, 28.07), "random": (5.44, 12.75), "identity": (4.35, 11.88)}
_TABLE_2B = {
    "no multi-scale injection": (39.28, 548.90),
    "no symmetric injection": (36.04, 526.36),
    "full": (35.95, 520.19),
}
_TABLE_2C = {"depth 1": (527, 697, 719), "depth 2": (516, 537, 685), "depth 3": (520, 542, 573)}
_TABLE_2D = {"L = 8": (569, 674, 727), "L = 16": (520, 542, 573)}
"""L = 32 did not fit into the memory of the paper's GPUs."""

AVG_FD, BLOCK_FD, SECONDS = "avg_fd", "block_fd", "seconds_with_many_workers"


@dataclass(frozen=True)
class Claim:
    """One column of a table of the paper: less is better in all of them."""

    table: str
    measure: str
    """Of our rows: `AVG_FD`, `BLOCK_FD` or `SECONDS`."""
    num_frames: int | None
    """Length of the films; None: the only one of this table."""
    paper: Mapping[str, float]
    """Row -> the paper's number."""

    @property
    def title(self) -> str:
        """Table, measure and length in words."""
        films = "" if self.num_frames is None else f", {self.num_frames} frames"
        return f"Table {self.table}, {self.measure}{films}"


@dataclass(frozen=True)
class Verdict:
    """A claim beside what was measured."""

    claim: Claim
    ours: Mapping[str, float]

    @property
    def paper_order(self) -> list[str]:
        """Rows from best to worst, in the paper."""
        return sorted(self.ours, key=lambda row: self.claim.paper[row])

    @property
    def our_order(self) -> list[str]:
        """Rows from best to worst, here."""
        return sorted(self.ours, key=lambda row: self.ours[row])

    @property
    def pairs(self) -> tuple[int, int]:
        """Pairs of rows in the paper's order, and all pairs that the paper tells apart."""
        told = [
            (a, b)
            for a, b in combinations(self.ours, 2)
            if self.claim.paper[a] != self.claim.paper[b]
        ]
        kept = sum(
            (self.ours[a] < self.ours[b]) == (self.claim.paper[a] < self.claim.paper[b])
            for a, b in told
        )
        return kept, len(told)

    @property
    def holds(self) -> bool:
        """Whether every pair is as in the paper."""
        return self.pairs[0] == self.pairs[1]


def claims() -> list[Claim]:
    """Every column of the paper's tables that orders its rows."""
    found = []
    for index, num_frames in enumerate(LENGTHS):
        for column, measure in enumerate((AVG_FD, BLOCK_FD, SECONDS)):
            paper = {row: values[column][index] for row, values in _TABLE_1.items()}
            found.append(Claim("1", measure, num_frames, paper))
    for table, rows in (("2a", _TABLE_2A), ("2b", _TABLE_2B)):
        for column, measure in enumerate((AVG_FD, BLOCK_FD)):
            found.append(
                Claim(table, measure, None, {row: values[column] for row, values in rows.items()})
            )
    for table, rows in (("2c", _TABLE_2C), ("2d", _TABLE_2D)):
        for index, num_frames in enumerate(LENGTHS):
            paper = {row: values[index] for row, values in rows.items()}
            found.append(Claim(table, BLOCK_FD, num_frames, paper))
    return found


def verdicts(rows: Sequence[Mapping[str, object]]) -> list[Verdict]:
    """All claims of which at least two rows were measured.

    Args:
        rows: of `paper_tables`, with 'table', 'row', 'num_frames' and the measures.
    """
    found = []
    for claim in claims():
        ours = {}
        for row in rows:
            same = row["table"] == claim.table and claim.num_frames in (None, row["num_frames"])
            value = row.get(claim.measure)
            if same and row["row"] in claim.paper and isinstance(value, int | float):
                ours[str(row["row"])] = float(value)
        if len(ours) > 1:
            found.append(Verdict(claim, ours))
    return found


def as_markdown(rows: Sequence[Mapping[str, object]], verdicts: Sequence[Verdict]) -> str:
    """Rows as tables, then the claims one by one.

    Args:
        rows: of `paper_tables`.
        verdicts: of the same.
    """
    lines: list[str] = []
    for name in dict.fromkeys(str(row["table"]) for row in rows):
        those = [{k: v for k, v in row.items() if k != "table"} for row in rows
                 if row["table"] == name]  # fmt: skip
        lines += [f"## Table {name}", "", *table(those), ""]
    lines += ["## Does the paper's ordering hold?", ""]
    lines.append("Best to worst, less being better. Where values are close, chance decides.")
    lines += ["", "| claim | paper | here | holds |", "|---|---|---|---|"]
    for each in verdicts:
        paper = " < ".join(f"{row} ({each.claim.paper[row]:g})" for row in each.paper_order)
        ours = " < ".join(f"{row} ({each.ours[row]:.4g})" for row in each.our_order)
        answer = "yes" if each.holds else f"no ({each.pairs[0]} of {each.pairs[1]} pairs)"
        lines.append(f"| {each.claim.title} | {paper} | {ours} | {answer} |")
    return "\n".join(lines) + "\n"


def table(rows: Sequence[Mapping[str, object]]) -> list[str]:
    """Lines of a table in Markdown; names that begin with '_' are left out.

    Args:
        rows: column -> value.
    """
    columns = [name for name in dict.fromkeys(k for row in rows for k in row) if name[0] != "_"]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return lines + ["| " + " | ".join(_cell(row.get(c)) for c in columns) + " |" for row in rows]


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
