"""Tables."""

import unittest

from harness.table import at_least, at_most, number, render


class Table(unittest.TestCase):
    def test_columns_are_aligned(self) -> None:
        self.assertEqual(
            render(["case", "rate"], [["a", "1"], ["longer", "12345"]]),
            "case     rate\n------  -----\na           1\nlonger  12345",
        )

    def test_a_column_without_a_word_is_left_out(self) -> None:
        self.assertEqual(
            render(["case", "goal", "rate"], [["a", "", "1"], ["b", "", "2"]]),
            "case  rate\n----  ----\na        1\nb        2",
        )

    def test_a_goal_is_met_or_missed(self) -> None:
        self.assertEqual(
            [at_least(0.94, 0.95), at_least(0.95, 0.95), at_least(1.0, None)], ["0.95 missed", "0.95 met", ""]
        )
        self.assertEqual([at_most(5.1, 5.0), at_most(4.9, 5.0), at_most(1.0, None)], ["5.00 missed", "5.00 met", ""])

    def test_numbers_have_three_digits_that_count(self) -> None:
        for value, expect in (
            (26946.3, "26946"),
            (23.21, "23.2"),
            (1.15, "1.15"),
            (0.00785, "0.00785"),
            (0.5, "0.5"),
            (0.0, "0"),
        ):
            self.assertEqual(number(value), expect)


if __name__ == "__main__":
    unittest.main()
