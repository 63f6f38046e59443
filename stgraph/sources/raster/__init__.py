"""Rasters: arrays ``[T, H, W, C]``, NetCDF and Zarr become grid cells with stencil edges, and come back exactly."""

from stgraph.sources.raster.build import build_raster
from stgraph.sources.raster.options import RasterOptions
from stgraph.sources.raster.reshape import coarsen, to_raster

__all__ = ["RasterOptions", "build_raster", "coarsen", "to_raster"]
