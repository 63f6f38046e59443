"""The package list: everything under stgraph/, and the data cards of datasets/ as ``stgraph_datasets``."""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["stgraph", "stgraph.*"]), "stgraph_datasets"])
