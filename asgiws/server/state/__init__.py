"""What the connections of one worker share."""
