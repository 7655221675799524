"""Benchmarks over HTTP: suites, runner, metrics, report, and the speed of a tree by itself."""
