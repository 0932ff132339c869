"""Maps of what is unusual by several methods, and how they are judged."""
