"""The archive file: atomic writing, the ZIP container, segments and the item table."""
