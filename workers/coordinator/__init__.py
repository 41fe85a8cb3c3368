"""The central side of federated learning: asks sites, judges what they answer, keeps the lineage."""
