"""Text that comes from models, servers and files: escaped, masked, and without thoughts."""
