"""Original layouts of CLIMB's data sets to rows; which sets there are: `sets.CONVERTERS`."""
