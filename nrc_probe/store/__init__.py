"""Activations and moments <-> chunked HDF5, schema nrc-probe/activations/1."""
