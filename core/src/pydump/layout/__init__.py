"""Bytes: how a struct is declared, and the structs that more than one format uses."""
