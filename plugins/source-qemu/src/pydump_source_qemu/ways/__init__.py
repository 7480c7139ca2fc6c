"""The ways to guest memory: one function each, which gives what it has captured."""
