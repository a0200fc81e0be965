"""A picture of widgets in plain HTML, from the state that a notebook stores.

Jupyter's own way to show stored widgets on a page loads scripts from the network; a page of a lesson must not.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    import nbformat

VIEW = "application/vnd.jupyter.widget-view+json"
_STATE = "application/vnd.jupyter.widget-state+json"
_REFERENCE = "IPY_MODEL_"


def as_html(notebook: nbformat.NotebookNode) -> None:
    """Replace the widgets in ``notebook``'s outputs by pictures of them, and forget their state."""
    models = notebook.metadata.pop("widgets", {}).get(_STATE, {}).get("state", {})
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            view = output.get("data", {}).get(VIEW)
            if view is not None:
                output.data = {"text/html": f"<fieldset disabled>{_draw(view['model_id'], models)}</fieldset>"}


def _draw(model_id: str, models: Mapping[str, Any]) -> str:
    """One widget and what is in it. A kind that this does not know is left out."""
    model = models.get(model_id, {})
    kind, state = model.get("model_name", "").removesuffix("Model"), model.get("state", {})
    if kind in {"VBox", "HBox", "Box"}:
        direction = "column" if kind == "VBox" else "row"
        children = (_draw(child.removeprefix(_REFERENCE), models) for child in state.get("children", ()))
        return f'<div style="display:flex;flex-direction:{direction};gap:4px">{"".join(children)}</div>'
    if kind == "HTML":
        return f"<div>{state.get('value', '')}</div>"
    if kind == "Button":
        return f"<button>{escape(state.get('description', ''))}</button>"
    control = _control(kind, state)
    label = (
        f'<span style="display:inline-block;width:7em;text-align:right">{escape(state.get("description", ""))}</span>'
    )
    return f"<label>{label} {control}</label>" if control else ""


def _control(kind: str, state: Mapping[str, Any]) -> str:
    if kind == "Dropdown":
        labels, index = state.get("_options_labels", ()), state.get("index")
        chosen = labels[index] if index is not None and index < len(labels) else ""
        return f"<select><option>{escape(str(chosen))}</option></select>"
    if kind == "Checkbox":
        return f'<input type="checkbox"{" checked" if state.get("value") else ""}>'
    if kind.endswith("Text"):
        value, placeholder = str(state.get("value", "")), str(state.get("placeholder") or "")
        return f'<input value="{escape(value)}" placeholder="{escape(placeholder)}">'
    return ""
