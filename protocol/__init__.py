"""The wire's vocabulary: frames, bodies, codes. Imports nothing of ours."""
