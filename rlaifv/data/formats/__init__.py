"""How each format of preference data says what a row is."""
