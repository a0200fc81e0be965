"""The control API of Modal's protocol, a module for each kind of object; ``server`` joins them."""
