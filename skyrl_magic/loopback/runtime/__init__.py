"""The sandboxes: namespaces, a keeper process for each, commands in them, their streams and volumes.

The keeper's side (``keeper``, ``container``, ``peers``, ``mounted``, ``processes``, ``spec``) is standard library only,
and importing this package imports nothing, so that a keeper starts fast.
"""
