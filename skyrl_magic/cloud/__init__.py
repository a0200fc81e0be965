"""The only client-side importer of modal; maps its errors to ``core.errors``."""
