"""The statistics."""

import unittest

from harness.stats import Spread, percentile, ratios, slope


class Stats(unittest.TestCase):
    def test_the_spread_has_the_median(self) -> None:
        self.assertEqual(Spread.of([3.0, 1.0, 2.0]), Spread(2.0, 1.0, 3.0))
        self.assertEqual(Spread.of([4.0, 1.0]), Spread(2.5, 1.0, 4.0))

    def test_ratios_are_taken_within_the_round(self) -> None:
        self.assertEqual(ratios([50.0, 10.0], [100.0, 20.0]), [0.5, 0.5])

    def test_a_round_without_its_yardstick_is_an_error(self) -> None:
        with self.assertRaises(ValueError):
            ratios([1.0, 2.0], [1.0])

    def test_percentiles_are_by_nearest_rank(self) -> None:
        values = list(range(1, 101))
        for percent, expect in ((50, 50), (99, 99), (99.9, 100), (100, 100), (0, 1), (1, 1)):
            self.assertEqual(percentile(values, percent), expect, percent)
        self.assertEqual(percentile([7], 99.9), 7)

    def test_the_slope_is_that_of_the_line(self) -> None:
        self.assertAlmostEqual(slope([(0, 5.0), (1, 8.0), (8, 29.0), (32, 101.0)]), 3.0)
        self.assertAlmostEqual(slope([(0, 1.0), (1, 3.0), (2, 2.0)]), 0.5)


if __name__ == "__main__":
    unittest.main()
