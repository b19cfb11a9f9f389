"""Progress of long work: phases with their seconds, and how they are shown."""
