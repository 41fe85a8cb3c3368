"""Everything that computes on voxels: packages, engines, inference, measurement."""
