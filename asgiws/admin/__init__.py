"""The admin address: metrics, health, and the live view with its clients."""
