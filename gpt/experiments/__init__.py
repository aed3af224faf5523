"""The runs that chapters 8 and 10 compare, each made once and remembered."""
