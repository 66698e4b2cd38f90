"""Collections of pixels: reading them from files and arrays, writing them back."""
