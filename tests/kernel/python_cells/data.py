"""Images, plots, tables and arrays."""

from __future__ import annotations

from tests.kernel.python_cells.case import Case

_PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="

CASES = (
    Case("a PNG", f"import base64\nfrom IPython.display import Image\nImage(data=base64.b64decode('{_PNG}'))"),
    Case("a PNG with a size", f"Image(data=base64.b64decode('{_PNG}'), width=20, height=10)"),
    Case(
        "Matplotlib inline",
        """
        %matplotlib inline
        import matplotlib.pyplot as plt
        plt.plot([1, 3, 2])
        plt.title('a plot')
        plt.show()
        """,
    ),
    Case(
        "a figure as the value",
        "fig, ax = plt.subplots(figsize=(2, 1))\nax.bar(['a', 'b'], [1, 2])\nplt.close(fig)\nfig",
    ),
    Case("a figure that the cell leaves open", "plt.plot([1, 2]);"),
    Case("two figures and text", "for n in (1, 2):\n    print('figure', n)\n    plt.plot([n, 1])\n    plt.show()"),
    Case("retina figures", "%config InlineBackend.figure_formats = ['svg']\nplt.rcParams['svg.hashsalt'] = 'x'"),
    Case("NumPy", "import numpy as np\nnp.arange(12).reshape(3, 4)"),
    Case("a pandas frame", "import pandas as pd\nframe = pd.DataFrame({'a': [1, 2], 'b': ['x', None]})\nframe"),
    Case("a long frame", "pd.DataFrame({'n': range(1000), 'm': np.linspace(0, 1, 1000)})"),
    Case("a styled frame", "frame.style.set_uuid('u').format(na_rep='-')"),
    Case("a series", "frame['a']"),
    Case("describe", "frame.describe()"),
    Case("an Arrow table", "import pyarrow as pa\npa.table({'a': [1, 2], 'b': ['x', 'y']})"),
    Case("an Arrow array", "pa.array([1, None, 3])"),
    Case("large HTML", "HTML('<p>' + 'x' * 300_000 + '</p>')"),
)
