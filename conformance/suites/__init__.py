"""Where cases come from: one module for each suite; `releases` stands for all past releases."""

from __future__ import annotations

from collections.abc import Sequence

from ..cases import Case
from ..errors import SuiteError

SUITES = ("official", "releases", "types", "versions")


def collect(suites: Sequence[str], releases: Sequence[str] = ()) -> list[Case]:
    """Return the cases of suites.

    Args:
        suites: names from `SUITES`.
        releases: versions, wheels or folders; they stand in for the list of known releases.

    Raises:
        SuiteError: a suite is unknown, or a release cannot be had.
    """
    from . import official
    from . import releases as past

    for suite in suites:
        if suite not in SUITES:
            raise SuiteError(f"suite must be one of {', '.join(SUITES)} (got {suite!r})")
    cases = official.load() if "official" in suites else []
    if "types" in suites:
        from . import types

        cases += types.load()
    if "versions" in suites:
        from . import versions

        cases += versions.load()
    if releases or "releases" in suites:
        for release in releases or past.RELEASES:
            cases += past.load(release)
    return cases


def find_case(name: str, releases: Sequence[str] = ()) -> Case:
    """Return the one case of a name: `test_abs`, `node/test_abs`, `release-1.4.1/node/test_abs`.

    A name without a suite is looked for in `releases` where there are any, else in the official suite.

    Raises:
        SuiteError: there is no such case, or more than one.
    """
    suite, _, rest = name.partition("/")
    if suite.startswith("release-") and rest and not releases:
        releases = [suite.removeprefix("release-")]
    suites = [suite] if rest and suite in SUITES else ["official"]
    cases = collect([] if releases else suites, releases)
    found = [case for case in cases if case.id == name or case.id.endswith(f"/{name}")]
    if not found:
        raise SuiteError(f"no case {name!r} among {len(cases)}")
    if len(found) > 1:
        raise SuiteError(f"{name!r} is ambiguous: {', '.join(case.id for case in found)}")
    return found[0]
