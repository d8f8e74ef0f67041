# SPDX-License-Identifier: Apache-2.0
"""`gz build`."""

from __future__ import annotations

import json
import time

from gz.cli import products


def build_core(as_json: bool) -> int:
    """Compile the core anew and print what it measures."""
    began = time.perf_counter()
    report = products.compile_core()
    seconds = round(time.perf_counter() - began, 2)
    facts = {
        "text_bytes": report.text_bytes,
        "image_bytes": report.image_bytes,
        "worst_stack_bytes": report.worst_stack_bytes,
        "seconds": seconds,
    }
    if as_json:
        print(json.dumps(facts))
    else:
        print(
            f"text         {report.text_bytes} bytes\nimage        {report.image_bytes} bytes\n"
            f"worst stack  {report.worst_stack_bytes} bytes\nbuilt in     {seconds} s"
        )
    return 0
