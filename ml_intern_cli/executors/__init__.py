"""Where code runs: its environment, its walls, its watchdog."""
