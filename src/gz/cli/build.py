# SPDX-License-Identifier: Apache-2.0
"""`gz build`."""

from __future__ import annotations

import json

from gz.cli import products


def build_core(as_json: bool, debug: bool) -> int:
    """Compile the core and print what it measures."""
    built = products.image("gz.core", debug=debug)
    facts = built.as_json()
    if as_json:
        print(json.dumps(facts))
        return 0
    print(f"text         {facts['text_bytes']} bytes")
    print(f"image        {facts['image_bytes']} bytes")
    print(f"worst stack  {facts['worst_stack_bytes']} bytes")
    print(f"built in     {facts['seconds']} s{'' if built.fresh else ' (sources unchanged since)'}")
    print(f"image        {built.image.flat}")
    return 0
