"""What results depend on: settings, code and versions as plain values that a resume compares."""
