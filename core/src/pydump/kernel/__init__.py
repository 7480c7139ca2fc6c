"""What pydump knows of the Linux kernel: its memory by virtual address, its struct pages, its symbols, its log."""
