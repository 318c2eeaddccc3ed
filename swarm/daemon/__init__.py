"""The long-running seeder."""
