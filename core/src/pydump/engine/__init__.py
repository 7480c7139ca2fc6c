"""From a plan to a finished output."""
