"""QEMU's migration stream: its sections, its RAM, the states of its devices.

:class:`~pydump_qemu_stream.stream.Stream` walks a stream, from a pipe or a file, and hands what it finds to a taker.
:class:`~pydump_qemu_stream.index.Index` is the taker that makes a file readable at random.
"""
