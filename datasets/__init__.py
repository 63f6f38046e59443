"""One TOML card per public data set, and a reader script for each odd file form; no data files."""
