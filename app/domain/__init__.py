"""The rules of Countersign: pure tables and functions, standard library only, no clock, no I/O."""
