"""Land mobile radio: when a transmitter is keyed, when a carrier counts, and the wire formats."""
