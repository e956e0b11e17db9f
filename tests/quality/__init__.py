"""How speech sounds through real calls, and how late it comes: ``python -m tests.quality``."""
