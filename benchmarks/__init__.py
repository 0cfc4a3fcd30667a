"""Measurements that answer one question each; run them from the checkout, `python -m benchmarks.NAME`."""
