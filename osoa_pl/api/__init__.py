"""The Python interface: `compress`, `decompress`, `open_archive`. Nothing here prints."""
