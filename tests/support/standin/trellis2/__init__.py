"""A small package with TRELLIS.2's surface, for tests on machines without a clone of it.

Nothing of it is TRELLIS.2's code: the same names and signatures, and models just deep enough
to go through the same extensions. `test_engine_trellis2.py` compares the signatures with
those of the real package where there is one.
"""
