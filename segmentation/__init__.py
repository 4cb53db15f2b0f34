"""Everything that knows SAM 2, and nothing of Ikomia or Qt."""
