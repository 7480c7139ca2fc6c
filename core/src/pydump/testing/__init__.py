"""For the tests of pydump and of plugins: conformance suites to subclass, synthetic guests, a dummy plugin per role.

``compressor`` needs pytest and hypothesis; the other modules need nothing.
"""
