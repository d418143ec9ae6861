"""Checks the tables of points.rs and points_iq1.rs against the `gguf` Python package, or prints a table.

    pip install gguf && python crates/undine-core/tests/data/points.py            # checks
    python crates/undine-core/tests/data/points.py IQ2_XS                         # prints
"""

import re
import sys
from pathlib import Path

import gguf.quants as q

HERE = Path(__file__).resolve().parents[2] / "src/quant"
TABLES = {"IQ3_S": 3, "IQ2_XXS": 2, "IQ2_XS": 2, "IQ2_S": 2, "IQ3_XXS": 3, "IQ1_S": 2}


def packed(name):
    """The points of a format: the number of each level, the first value lowest."""
    cls = getattr(q, name)
    cls.init_grid()
    grid = cls.grid.reshape(cls.grid_shape)
    level = {value: number for number, value in enumerate(cls.grid_map)}
    return [sum(level[int(v)] << (TABLES[name] * i) for i, v in enumerate(point)) for point in grid]


def text(name):
    points = [f"0x{point:04x}," for point in packed(name)]
    return "\n".join("    " + " ".join(points[i : i + 16]) for i in range(0, len(points), 16))


def check():
    source = "".join((HERE / file).read_text() for file in ("points.rs", "points_iq1.rs"))
    for name in TABLES:
        body = re.search(rf"const {name}: \[u16; \d+\] = \[(.*?)\];", source, re.S).group(1)
        found = [int(word, 16) for word in re.findall(r"0x[0-9a-f]+", body)]
        assert found == packed(name), name
        print(name, "is as the package has it")


if len(sys.argv) > 1:
    print(text(sys.argv[1]))
else:
    check()
