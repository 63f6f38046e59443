"""Events: rows of (type, place, time, marks) become nodes, each at exactly one place. Import the module you need."""
