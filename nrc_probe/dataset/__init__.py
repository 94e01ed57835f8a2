"""A saved data set (+ spec), or a live one -> batches (inputs, targets); streams where the format allows."""

from nrc_probe.dataset.dataset import Dataset, open_dataset, wrap_dataset
from nrc_probe.dataset.keeping import bytes_in_memory, keep_rows
from nrc_probe.dataset.preparing import Batch, Inputs
from nrc_probe.dataset.standardize import Statistics

__all__ = [
    "Batch",
    "Dataset",
    "Inputs",
    "Statistics",
    "bytes_in_memory",
    "keep_rows",
    "open_dataset",
    "wrap_dataset",
]
