"""What flows through Antiphon, and the machine that moves it."""
