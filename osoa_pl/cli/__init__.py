"""The command line: one file a command, `main` for the tree, `console` for everything printed."""
