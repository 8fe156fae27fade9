"""The package that reads and writes Parquet, which is optional."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow


def import_pyarrow() -> pyarrow:
    """Return the package that reads and writes Parquet.

    Raises:
        ImportError: If it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError("Parquet files need pyarrow: pip install 'moee_hf[parquet]'.") from error
    return pyarrow
