"""Losses, and the policy/reference pair as a LightningModule."""
