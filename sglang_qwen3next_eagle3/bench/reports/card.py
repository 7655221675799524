"""The model card's published figures, which `benchmarks/card.yaml` holds."""

from functools import cache

from sglang_qwen3next_eagle3.base.files import data_file
from sglang_qwen3next_eagle3.base.schema import Strict, read_mapping
from sglang_qwen3next_eagle3.bench.results.records import Configuration


class CardFigures(Strict):
    """baseline, eagle3: tok/s. accept_rate: a share; like accept_length not published for B=32."""

    baseline: float
    eagle3: float
    speedup: float
    accept_rate: float | None = None
    accept_length: float | None = None


class CardRow(CardFigures):
    suite: str


class CardTable(Strict):
    """tree: steps, topk, draft tokens."""

    batch: int
    tree: tuple[int, int, int]
    rows: tuple[CardRow, ...]
    mean: CardFigures

    def row(self, suite: str) -> CardRow | None:
        """The row of a suite, however its name is written: "mt-bench" is "MT-Bench"."""
        return next((row for row in self.rows if _plain(row.suite) == _plain(suite)), None)

    def mean_over(self, suites: tuple[str, ...]) -> CardFigures | None:
        """The published mean where these are all its suites, else the mean over these.

        None where one of them is not on the card. Means as the card forms them: of the columns,
        and the speedup is the ratio of the two mean tok/s.
        """
        rows = [row for suite in suites if (row := self.row(suite))]
        if not rows or len(rows) < len(suites):
            return None
        if len(rows) == len(self.rows):
            return self.mean
        baseline = sum(row.baseline for row in rows) / len(rows)
        eagle3 = sum(row.eagle3 for row in rows) / len(rows)
        rates = [row.accept_rate for row in rows if row.accept_rate is not None]
        lengths = [row.accept_length for row in rows if row.accept_length is not None]
        figures = {
            "baseline": baseline,
            "eagle3": eagle3,
            "speedup": eagle3 / baseline,
            "accept-rate": sum(rates) / len(rates) if rates else None,
            "accept-length": sum(lengths) / len(lengths) if lengths else None,
        }
        return CardFigures.model_validate(figures)


class Card(Strict):
    source: str
    conditions: str
    notes: tuple[str, ...]
    tables: tuple[CardTable, ...]

    def table(self, configuration: Configuration, batch: int) -> CardTable | None:
        """What the card has for an EAGLE3 head with this tree at this batch size."""
        if configuration.algorithm != "eagle3":
            return None
        wanted = (batch, configuration.tree)
        return next((table for table in self.tables if (table.batch, table.tree) == wanted), None)

    def title(self, suite: str) -> str:
        """The suite's name as the card writes it, else as it is."""
        rows = (row for table in self.tables if (row := table.row(suite)))
        found = next(rows, None)
        return suite if found is None else found.suite


@cache
def read_card() -> Card:
    """The card of this installation.

    Raises:
        FileNotFoundError: the installation is broken.
    """
    return Card.model_validate(read_mapping(data_file("card.yaml"), "card"))


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())
