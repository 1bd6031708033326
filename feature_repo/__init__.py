"""The Feast repository, and the PostgreSQL connection that every part of the project shares."""
