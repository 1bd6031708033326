"""A fuzzer of raw drops: mutations that know the files' structure, and one oracle for whatever comes out."""
