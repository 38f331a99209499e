"""A small package with TRELLIS.2's interface, for tests on machines without a checkout of it.

It contains none of TRELLIS.2's code: only names and signatures, and models that are just deep
enough to call the same extensions. tests/engines/trellis2/test_upstream.py compares the
signatures with those of the real package if there is one.
"""
