"""Measurements: other codecs beside ours, and whether this machine keeps its promises."""
