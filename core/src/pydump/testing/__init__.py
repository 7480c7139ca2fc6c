"""For the tests of pydump and of plugins: a kit of tests for each role, synthetic guests, a dummy plugin per role.

A plugin's own tests subclass :class:`~pydump.testing.compressor.CompressorTests`,
:class:`~pydump.testing.format.FormatTests`, :class:`~pydump.testing.arch.ArchTests`,
:class:`~pydump.testing.source.SourceTests`, :class:`~pydump.testing.storage.StorageTests` or
:class:`~pydump.testing.filter.FilterTests`. What is installed is tested,
without a line of code, by ``pytest --pyargs pydump.testing --pydump-plugin=NAME``.

The kits need ``pydump-core[testing]``: pytest and hypothesis.
"""
