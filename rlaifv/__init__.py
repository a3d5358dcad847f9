"""RLAIF-V as one resumable command: feedback from open models, preference pairs, DPO, and again."""
