"""A run as one self-contained page: map of errors, forecast against truth, controls, provenance."""

from stgraph.report.page import ReportContent, payload, render, write_report

__all__ = ["ReportContent", "payload", "render", "write_report"]
