"""Tests of what needs no machine: python3 -m unittest discover bench"""

import json
import subprocess
import sys
import unittest
import xml.etree.ElementTree
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import cells
import picture
import quality
import table
import works


def limits(limit_ts):
    return {"limit_ts": limit_ts, "limited_by": "memory", "bytes_per_token": 100.0, "operations_per_token": 10.0}


def record(*made):
    return {
        "date": "2026-01-02",
        "threads": 2,
        "machine": {"cpu": "A <CPU> & more", "cores": 4},
        "peer": {"name": "peer 1"},
        "works": {"decode": "Decode", "start": "Start"},
        "cells": {cells.key(cell["work"], cell["model"], cell["test"]): cell for cell in made},
    }


SPEED = cells.cell(
    "decode",
    "speed",
    "m-q4_0",
    "tg8",
    {"undine": [9.0, 12.0, 10.0], "peer": {"default": [4.0, 5.0], "no repack": [8.0, 8.0]}, "limits": [limits(18.0), limits(22.0)]},
)
TIME = cells.cell("start", "start", "m", "first token", {"undine": [0.5], "peer": {"default": [0.4], "no repack": [0.2]}})


class Cells(unittest.TestCase):
    def test_a_spread_has_the_median(self):
        self.assertEqual(cells.spread([3, 1, 2])["median"], 2)
        self.assertEqual(cells.spread([4, 1, 2, 3])["median"], 2.5)
        self.assertEqual((cells.spread([3, 1, 2])["min"], cells.spread([3, 1, 2])["max"]), (1, 3))

    def test_the_best_setting_of_the_peer_counts(self):
        self.assertEqual((SPEED["best_peer"], SPEED["ratio"]), ("no repack", 1.25))
        # Less time is better, and the ratio is below 1 for the slower side.
        self.assertEqual((TIME["best_peer"], TIME["ratio"]), ("no repack", 0.4))

    def test_the_limit_is_the_median_of_those_measured_beside(self):
        self.assertEqual((SPEED["limit"]["median"], SPEED["limit"]["percent"]), (20.0, 50.0))
        self.assertNotIn("limit", TIME)

    def test_only_hopeless_settings_are_dropped(self):
        speeds = {"a": [10.0], "b": [9.0], "c": [7.0]}
        self.assertEqual(cells.hopeless("speed", speeds, 0.8), {"c"})
        self.assertEqual(cells.hopeless("start", speeds, 0.8), {"a", "b"})
        self.assertEqual(cells.hopeless("speed", {"a": []}, 0.8), set())

    def test_a_setting_that_was_hopeless_is_so_at_greater_depths(self):
        shallow, *deeper = [job for job in works.FULL["depth"].jobs if job.model == "1.2b-q4_0"]
        made = cells.cell("depth", "speed", shallow.model, shallow.tests()[0], {"undine": [9.0], "peer": {"a": [5.0], "b": [3.0]}})
        run = {"cells": {cells.key("depth", shallow.model, shallow.tests()[0]): made}}
        self.assertEqual(table.outdone(run, "depth", shallow), set())
        self.assertEqual([table.outdone(run, "depth", job) for job in deeper], [{"b"}, {"b"}])
        self.assertEqual(table.outdone(run, "start", works.FULL["start"].jobs[0]), set())

    def test_small_differences_are_ties(self):
        self.assertEqual([cells.verdict(value) for value in (0.9, 0.96, 1.04, 1.1)], ["slower", "tie", "tie", "faster"])

    def test_the_table_has_a_line_per_cell(self):
        lines = cells.markdown(record(SPEED, TIME)).splitlines()
        self.assertIn("| m-q4_0 | tg8 | 10.0 (9.0 .. 12.0) | 8.0 (8.0 .. 8.0) | no repack | 1.25 | 50% (memory) |", lines)
        self.assertEqual(sum(line.startswith("| m") and "model" not in line for line in lines), 2)


class Picture(unittest.TestCase):
    def test_bars_are_parts_of_the_limit(self):
        root = xml.etree.ElementTree.fromstring(picture.draw(record(SPEED)))
        named = lambda tag, kind: [e for e in root.iter(f"{{http://www.w3.org/2000/svg}}{tag}") if e.get("class") == kind]
        # The first of each is the legend's.
        ours, peer, limit = named("rect", "ours")[1], named("rect", "peer")[1], named("line", "limit")[1]
        self.assertAlmostEqual(float(ours.get("width")), 10 / 20 * picture.BARS)
        self.assertAlmostEqual(float(peer.get("width")), 8 / 20 * picture.BARS)
        self.assertEqual(float(limit.get("x1")), float(ours.get("x")) + picture.BARS)

    def test_every_recorded_run_can_be_drawn(self):
        runs = sorted((HERE / "runs").glob("20*.json"))
        self.assertTrue(runs)
        for run in runs:
            with self.subTest(run=run.name):
                root = xml.etree.ElementTree.fromstring(picture.draw(json.loads(run.read_text())))
                self.assertLess(float(root.get("height")), 4000)


class Works(unittest.TestCase):
    def test_tests_have_the_names_both_sides_print(self):
        job = works.Job("m", n_prompt=(8, 16), n_gen=(4,), depth=(0, 64), batch=(1, 2))
        self.assertEqual(
            job.tests(),
            ["pp8", "pp16", "pp8 @ d64", "pp16 @ d64", "tg4", "tg4 @ d64", "tg4 x2", "tg4 x2 @ d64"],
        )
        self.assertEqual(job.arguments(), ["-p", "8,16", "-n", "4", "-d", "0,64", "-B", "1,2"])

    def test_every_model_has_a_shape(self):
        for name, work in [*works.FULL.items(), *works.SMALL.items()]:
            for job in work.jobs:
                self.assertIn(job.model.rsplit("-", 1)[0], works.SHAPES, name)
                self.assertTrue(table.tests_of(work, job), name)


class Runner(unittest.TestCase):
    def test_it_reports_output_time_and_memory(self):
        command = [sys.executable, str(HERE / "runner.py"), sys.executable, "-c", "print('hello')"]
        said = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        self.assertEqual(said["output"], "hello\n")
        self.assertGreater(said["resident_bytes"], 1 << 20)
        self.assertGreater(said["wall_s"], 0)

    def test_a_failure_is_passed_on(self):
        command = [sys.executable, str(HERE / "runner.py"), sys.executable, "-c", "raise SystemExit(3)"]
        self.assertEqual(subprocess.run(command, capture_output=True).returncode, 3)


def quality_cell(size, *means):
    """A file with these divergences in parts of the text, the first of twice as many predictions as each other."""
    part = {"same_top": 0.975, "reference_perplexity": 2.5, "windows": 2, "context": 512}
    counts = [510] + [255] * (len(means) - 1)
    return {"bytes": size, "parts": [part | {"kl": mean, "predictions": count} for mean, count in zip(means, counts)]}


QUALITY = {
    "name": "a <model>",
    "date": "2026-01-02",
    "peer": {"name": "peer 1"},
    "input_bytes": 20_000_000,
    "cells": {
        "Q4_0 plain undine": quality_cell(5_000_000, 0.01, 0.04),
        "Q4_0 plain llama.cpp": quality_cell(5_000_000, 0.04, 0.04),
        "Q8_0 imatrix undine": quality_cell(9_000_000, 0.0),
        "Q8_0 imatrix llama.cpp": quality_cell(9_000_000, 0.0),
        # Stopped before the peer's turn.
        "Q2_K plain undine": quality_cell(3_000_000, 0.5),
    },
}


class Quality(unittest.TestCase):
    def test_the_table_has_types_that_both_sides_have(self):
        lines = quality.table(QUALITY).splitlines()
        made = [line for line in lines if line.startswith("| Q")]
        self.assertEqual(len(made), 2)
        # Differences of 0.25 - 0.5 and 1 - 0.5: the root of (0.25^2 + 0.5^2) / 1 / 2.
        self.assertIn("| Q4_0 | no | 5.00 | 5.00 | 0.020000 | 0.040000 | 0.500 +/- 0.395 |", made[0])
        self.assertIn("| 0.000000 | 0.000000 | - |", made[1])

    def test_a_text_is_cut_into_pieces_of_all_its_lines(self):
        text = "".join(f"{i}\n" for i in range(10))
        for count in (1, 3, 10):
            pieces = quality.pieces(text, count)
            self.assertEqual((len(pieces), "".join(pieces)), (count, text))
            self.assertLessEqual(max(map(len, pieces)) - min(map(len, pieces)), 2)

    def test_the_picture_is_xml_and_has_every_file_with_a_loss(self):
        drawn = xml.etree.ElementTree.fromstring(quality.draw(QUALITY))
        marks = [mark for mark in drawn.iter("{http://www.w3.org/2000/svg}circle") if mark.get("stroke")]
        self.assertEqual(len(marks), 2)

    def test_every_recorded_run_can_be_drawn(self):
        for run in sorted((HERE / "runs").glob("quality-*.json")):
            with self.subTest(run=run.name):
                record = json.loads(run.read_text())
                self.assertIn("| Q4_K_M |", quality.table(record))
                xml.etree.ElementTree.fromstring(quality.draw(record))

    def test_decades_enclose_the_range(self):
        self.assertEqual([f"{value:g}" for value in quality.decades(0.02, 3)], ["0.01", "0.1", "1", "10"])
        self.assertEqual([f"{value:g}" for value in quality.decades(0.1, 0.1)], ["0.1", "1"])


if __name__ == "__main__":
    unittest.main()
