"""The command line: one file per verb, each reading arguments and printing."""
