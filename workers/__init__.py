"""The processes that join receiver, models and delivery into one straight line."""
