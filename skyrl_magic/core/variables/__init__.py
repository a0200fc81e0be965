"""Variables as a file in open formats: the same code writes and reads it in the notebook and in the Python kernel.

The file is ``head | packed variables | blobs``. The head (:data:`bundle.HEAD`) says how long the second part is, a
msgpack map from names to packed values (:mod:`plain`), and where the blobs begin: the bytes of arrays, of tables as
Arrow IPC, and of pickles, which a packed value names by offset and size. Large ones lie where they can be mapped into
memory by themselves, so loading copies nothing and dropping a variable lets its memory go.

The package is shipped to the container: standard library at import, and Python 3.9. msgpack is imported when it is
used, NumPy, pandas, polars and pyarrow when a value needs them. What comes from the other side is untrusted, but for a
pickle that the user has allowed.
"""

from skyrl_magic.core.variables.bundle import DEFAULT_MAX_BYTES, Packed, find, pack, unpack
from skyrl_magic.core.variables.problem import VariableProblem
from skyrl_magic.core.variables.store import Buffer

__all__ = ["DEFAULT_MAX_BYTES", "Buffer", "Packed", "VariableProblem", "find", "pack", "unpack"]
