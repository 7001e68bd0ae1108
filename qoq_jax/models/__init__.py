"""The model: decoder, vision tower, ECG encoder, and the table that declares every weight."""
