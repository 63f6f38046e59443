"""Road networks from OpenStreetMap. Import the module you need; nothing is loaded here."""
