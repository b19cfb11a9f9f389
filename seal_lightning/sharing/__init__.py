"""Model cards for what `seal fit`, `seal adapt` and `seal continual` write, and uploads to the Hugging Face hub."""
