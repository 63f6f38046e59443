"""Blocks that several models are built from."""

from stgraph.nn.inputs import CalendarTable, ChannelScaler

__all__ = ["CalendarTable", "ChannelScaler"]
