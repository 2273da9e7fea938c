"""What the installed packages need before they work together."""
