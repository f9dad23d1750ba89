"""One process that serves: event loop, signals, and an end that always comes."""
