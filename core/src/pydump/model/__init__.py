"""Values that pass between rooms: frozen, slotted, and without behaviour beyond their own arithmetic."""
