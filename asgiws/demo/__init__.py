"""The built-in demonstration: `asgiws asgiws.demo:app`."""
