"""Brings completion to IPython, as a matcher of its second API (which keeps ``--no-ray`` whole)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from IPython.core.completer import CompletionContext
    from IPython.core.interactiveshell import InteractiveShell

    from skyrl_magic.ui.completion import Known

_IDENTIFIER = "skyrl_magic.options"


def register(shell: InteractiveShell, magics: Known) -> None:
    """Complete the lines of ``magics`` in ``shell``."""
    from IPython.core.completer import SimpleCompletion, context_matcher

    @context_matcher(identifier=_IDENTIFIER)  # type: ignore[untyped-decorator]
    def complete_options(context: CompletionContext) -> dict[str, Any]:
        from skyrl_magic.ui.completion import complete  # at the first key press, not at `%load_ext`

        found = complete(context.full_text, context.cursor_line, context.cursor_position, magics)
        if found is None:
            return {"completions": []}
        return {
            "completions": [SimpleCompletion(text, type="option") for text in found.texts],
            "matched_fragment": found.fragment,
            "ordered": True,
            "suppress": True,
        }

    unregister(shell, magics)
    shell.Completer.custom_matchers.append(complete_options)


def unregister(shell: InteractiveShell, magics: Known) -> None:
    """Undo :func:`register`."""
    del magics  # a shell has one set of our magics
    matchers = shell.Completer.custom_matchers
    matchers[:] = [matcher for matcher in matchers if getattr(matcher, "matcher_identifier", "") != _IDENTIFIER]
