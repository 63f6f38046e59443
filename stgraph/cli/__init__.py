"""The command line: ``stgraph VERB ...``. Modules here import nothing heavy before a verb runs."""
