"""ipywidgets and what is built from them."""

from __future__ import annotations

from tests.kernel.python_cells.case import Case

CASES = (
    Case("a slider", "import ipywidgets as widgets\nslider = widgets.IntSlider(value=3, max=9)\nslider"),
    Case("a widget that changes", "slider.value = 7\nslider.value"),
    Case("a box", "widgets.HBox([widgets.Button(description='b'), widgets.HTML('<b>h</b>')])"),
    Case("an Output widget", "out = widgets.Output()\nout"),
    Case("text into it", "with out:\n    print('inside')\nprint('outside')"),
    Case(
        "into it and out of it",
        "for i in range(5):\n    print('outside', i)\n    with out:\n        print('inside', i)\n        display(i)",
    ),
    Case(
        "cleared inside", "print('outside')\nwith out:\n    print('gone')\n    out.clear_output()\n    print('stays')"
    ),
    Case(
        "cleared in a loop",
        """
        for i in range(20):
            print('outside', i)
            with out:
                out.clear_output(wait=True)
                print('step', i)
        """,
    ),
    Case(
        "cleared behind what it took",
        "with out:\n    print('inside')\n    out.clear_output(wait=True)\nprint('outside')",
    ),
    Case("and taken again", "with out:\n    print('again')"),
    Case(
        "the cell is cleared around it",
        "print('gone')\nclear_output(wait=True)\nwith out:\n    print('inside')\nprint('outside')",
    ),
    Case("an error inside", "with out:\n    1 / 0\nprint('goes on')"),
    Case("a capturing function", "@out.capture(clear_output=True)\ndef shows(): print('captured')\nshows()"),
    Case("append_stdout", "out.append_stdout('appended')\nout.append_display_data('d')"),
    Case("interact", "widgets.interact(lambda x: print('x is', x), x=(0, 3));"),
    Case("a picture with a buffer", "widgets.Image(value=b'\\x89PNG\\x00\\xff' * 10, format='png')"),
    Case(
        "tqdm.notebook",
        "from tqdm.notebook import tqdm as bar\nfor _ in bar(range(20), bar_format='{n}/{total}{bar}'): pass",
    ),
    Case("a closed widget", "slider.close()"),
)
