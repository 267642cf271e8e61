"""Cases whose stored expectation contradicts the specification, from `suites/adjudications.toml`."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources

# Outcomes that a wrong expectation explains. It never explains a crash or a hang.
EXPLAINED = frozenset({"failed", "error", "unsupported", "broken"})


@dataclass(frozen=True, slots=True)
class Adjudication:
    """Why a backend that follows the specification cannot pass these cases.

    Attributes:
        suites: the suites in which the cases are wrong, such as `release-1.4.1`.
        cases: `group/name` of each; no patterns.
        expects: what the stored data expects.
        spec: what the specification says, with the place.
        why: how the data came to be wrong.
    """

    suites: tuple[str, ...]
    cases: tuple[str, ...]
    expects: str
    spec: str
    why: str


@cache
def adjudications() -> dict[str, Adjudication]:
    """Return the adjudications by the identifiers of their cases."""
    text = (resources.files(__package__) / "suites" / "adjudications.toml").read_text(encoding="utf-8")
    found: dict[str, Adjudication] = {}
    for entry in tomllib.loads(text)["adjudication"]:
        # The texts are wrapped for the reader of the file.
        expects, spec, why = (" ".join(entry[key].split()) for key in ("expects", "spec", "why"))
        made = Adjudication(tuple(entry["suites"]), tuple(entry["cases"]), expects, spec, why)
        for name in (f"{suite}/{case}" for suite in made.suites for case in made.cases):
            if name in found:
                raise ValueError(f"{name} is adjudicated twice")
            found[name] = made
    return found
