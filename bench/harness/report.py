"""What a scenario hands back."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from . import table
from .case import Outcome


@dataclass(frozen=True)
class Report:
    """A scenario's table for people, and its figures for programs."""

    text: str
    rows: list[dict[str, Any]]


def of_loads(groups: Sequence[Sequence[Outcome]]) -> Report:
    """The report of cases under load, each group with its own yardstick."""
    tables = [table.loads(group) for group in groups]
    return Report(
        "\n\n".join([*tables, table.LOAD_NOTES]), [outcome.as_json() for group in groups for outcome in group]
    )
