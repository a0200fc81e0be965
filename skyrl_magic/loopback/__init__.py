"""A server on 127.0.0.1 that speaks Modal's protocol, so that the unmodified ``modal`` client works without an account.

``daemon.ensure_server`` finds or starts it, ``server`` composes it, ``control/`` answers the control calls, ``router``
the exec calls, ``runtime/`` runs the sandboxes. Nothing here imports another package of this project.
"""
