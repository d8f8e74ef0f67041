# SPDX-License-Identifier: Apache-2.0
"""Imports between the packages point one way."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import gz

ROOT = Path(gz.__file__).parent

#: What a package may import besides itself; `state` is the private directory on the machine where it runs.
LAYERS = {
    "bits": set[str](),
    "abi": {"bits"},
    "arm64": {"bits", "abi"},
    "metal": {"bits", "abi", "arm64", "state"},
    "core": {"bits", "abi", "arm64", "metal"},
    "driver": {"bits", "abi", "arm64", "metal", "state"},
    "vmm": {"bits", "abi", "arm64", "metal", "driver", "state"},
    "board": {"abi", "state"},
}

#: Where machines have what: numbers, for payloads and the core's own guests too.
MAPS = "vmm.maps"


def imported(file: Path) -> Iterator[str]:
    """The packages of the project that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(file.read_text(), str(file))):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module == "gz":
            names = [f"gz.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            if name.startswith("gz.") and name != f"gz.{MAPS}":
                yield name.split(".")[1]


def test_imports_point_one_way() -> None:
    wrong = [
        f"{file.relative_to(ROOT)} imports gz.{other}"
        for package, allowed in LAYERS.items()
        for file in sorted((ROOT / package).rglob("*.py"))
        for other in imported(file)
        if other not in allowed | {package}
    ]
    assert not wrong, "\n".join(wrong)


def test_maps_are_numbers() -> None:
    assert set(imported(ROOT / f"{MAPS.replace('.', '/')}.py")) <= LAYERS["core"]


def test_every_package_has_a_place() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages - {"cli"} == set(LAYERS)
