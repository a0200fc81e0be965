"""No I/O: protocol, specs, options, streams, errors and the ports that backends implement."""
