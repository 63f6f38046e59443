"""Sources: what people have becomes a graph. Import the module you need; nothing is loaded here."""
