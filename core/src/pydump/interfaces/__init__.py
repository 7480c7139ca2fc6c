"""What a plugin implements: one abstract class per role, and small protocols for abilities it may add."""
