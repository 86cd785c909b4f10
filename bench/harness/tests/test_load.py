"""The parsers of what load generators print."""

import unittest

from harness.load import Load, LoadError, parse_h2load, parse_oha, parse_wrk

WRK = """Running 1s test @ http://127.0.0.1:24100/
  2 threads and 4 connections
  50716 requests in 1.10s, 8.95MB read
Requests/sec:  46103.65
{"requests": 50716, "microseconds": 1100043, "connect": 0, "read": %d, "write": 0, "status": %d, \
"timeout": 0, "wrong": %d, "latency": {"50": 50.0, "90": 1706.0, "99": 4022.0, "99.9": 7034.0}}
"""

H2LOAD = """starting benchmark...
finished in 2.01s, 20.00 req/s, 2.11MB/s
requests: 42 total, 44 started, 42 done, 40 succeeded, {failed} failed, 0 errored, 0 timeout
status codes: 40 2xx, 0 3xx, {refused} 4xx, 1 5xx
time for request:      101us     20.96ms      1.45ms      1.71ms    88.57%
"""

OHA = """{"summary": {"successRate": 1.0, "total": 2.0, "requestsPerSec": 50.0},
"latencyPercentiles": {"p10": 0.0001, "p50": 0.0002, "p90": 0.0009, "p99": 0.004, "p99.9": 0.0123, "p99.99": 0.02},
"statusCodeDistribution": {"200": 99, "503": 1}, "errorDistribution": {"connection closed": 2}}"""


class Wrk(unittest.TestCase):
    def test_figures_are_read(self) -> None:
        load = parse_wrk(WRK % (0, 0, 0))
        self.assertEqual(load, Load(50716, 1.100043, {"50": 0.05, "90": 1.706, "99": 4.022, "99.9": 7.034}))
        self.assertAlmostEqual(load.rate, 46103.65, delta=1)

    def test_wrong_answers_are_told_by_kind(self) -> None:
        self.assertEqual(parse_wrk(WRK % (3, 7, 9)).wrong, {"broken off": 3, "not 2xx": 7, "another answer": 9})

    def test_no_figures_are_an_error(self) -> None:
        with self.assertRaises(LoadError):
            parse_wrk("unable to connect")


class H2load(unittest.TestCase):
    def test_figures_are_read(self) -> None:
        log = [f"179535751793{n} 200 {n * 100}\n" for n in range(1, 41)]
        load = parse_h2load(H2LOAD.format(failed=2, refused=1), log)
        self.assertEqual((load.requests, load.rate), (40, 20.0))
        self.assertEqual(load.latency, {"50": 2.0, "90": 3.6, "99": 4.0, "99.9": 4.0})
        self.assertEqual(load.wrong, {"failed": 2, "not 2xx": 2})

    def test_no_answer_is_an_error(self) -> None:
        with self.assertRaises(LoadError):
            parse_h2load(H2LOAD.format(failed=0, refused=0), [])
        with self.assertRaises(LoadError):
            parse_h2load("", ["1 200 3"])


class Oha(unittest.TestCase):
    def test_figures_are_read(self) -> None:
        load = parse_oha(OHA)
        self.assertEqual((load.requests, load.rate), (100, 50.0))
        self.assertEqual(load.latency, {"50": 0.2, "90": 0.9, "99": 4.0, "99.9": 12.3})
        self.assertEqual(load.wrong, {"not 2xx": 1, "connection closed": 2})

    def test_no_figures_are_an_error(self) -> None:
        for output in ("", "{}", '{"summary": null}', OHA.replace("0.004,", "null,")):
            with self.subTest(output), self.assertRaises(LoadError):
                parse_oha(output)


if __name__ == "__main__":
    unittest.main()
